"""Multi-head attention over a context: projections here, keys and masks there."""

from collections.abc import Sequence

from torch import Tensor, nn

from model.config import TransformerConfig
from model.layers.context import AttentionContext
from model.layers.linear import Linear
from model.layers.norms import build_norm
from model.layers.positions import rotate


class Attention(nn.Module):
    """The projections that self- and cross-attention share; grouped-query where kv heads are fewer.

    Ainslie et al. 2023 (arXiv:2305.13245) for grouped queries.
    """

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = config.head_dim
        self.scale = config.attention_scale
        wide, narrow = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.query = Linear(config.hidden_size, wide, config.attention_bias)
        self.key = Linear(config.hidden_size, narrow, config.attention_bias)
        self.value = Linear(config.hidden_size, narrow, config.attention_bias)
        self.output = Linear(wide, config.hidden_size, config.output_bias)

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(x.shape[0], -1, self.head_dim)  # [num_tokens, heads, head_dim]


class SelfAttention(Attention):
    """Tokens of a sequence look at each other."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.query_norm = build_norm(config, config.head_dim) if config.qk_norm else None
        self.key_norm = build_norm(config, config.head_dim) if config.qk_norm else None

    def forward(
        self,
        x: Tensor,
        context: AttentionContext,
        rotation: tuple[Tensor, Tensor] | None,
        bias: Sequence[Tensor] | None,
    ) -> Tensor:
        """[num_tokens, hidden_size] to the same."""
        spans = context.adapter_spans
        query, key = self._heads(self.query(x, spans)), self._heads(self.key(x, spans))
        value = self._heads(self.value(x, spans))
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        out = context.attend(self.layer, query, (key, value), self.scale, bias)
        return self.output(out.reshape(x.shape[0], -1), spans)


class CrossAttention(Attention):
    """Decoder tokens look at the encoder's output, whose keys are computed once and then kept."""

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        """[num_tokens, hidden_size] to the same."""
        query = self._heads(self.query(x, context.adapter_spans))
        fresh, memory, spans = None, context.memory, context.memory_spans
        if memory is not None:
            fresh = self._heads(self.key(memory, spans)), self._heads(self.value(memory, spans))
        out = context.attend_memory(self.layer, query, fresh, self.scale)
        return self.output(out.reshape(x.shape[0], -1), context.adapter_spans)
