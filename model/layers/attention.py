"""Multi-head attention over a context: projections here, keys and masks there."""

from collections.abc import Sequence

from torch import Tensor, nn

from model.config import TransformerConfig
from model.layers.context import AttentionContext
from model.layers.disentangled import PositionScores, RelativeStates
from model.layers.linear import Linear, Together
from model.layers.norms import build_norm
from model.layers.packed import ONEDNN, Packing, ServedWeight
from model.layers.positions import rotate


class Attention(nn.Module):
    """The projections that self- and cross-attention share; grouped-query where kv heads are fewer.

    Ainslie et al. 2023 (arXiv:2305.13245) for grouped queries.
    """

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.num_heads, self.num_kv_heads = config.num_heads, config.num_kv_heads
        self.head_dim = config.head_dim
        self.scale = config.attention_scale
        wide, narrow = config.num_heads * config.head_dim, config.num_kv_heads * config.head_dim
        self.query = Linear(config.hidden_size, wide, config.attention_bias)
        self.key = Linear(config.hidden_size, narrow, config.attention_bias)
        self.value = Linear(config.hidden_size, narrow, config.attention_bias)
        self.output = Linear(wide, config.hidden_size, config.output_bias)

    def _heads(self, x: Tensor) -> Tensor:
        return x.view(*x.shape[:-1], -1, self.head_dim)  # [num_tokens, heads, head_dim]


class SelfAttention(Attention):
    """Tokens of a sequence look at each other, in a layer with a window at the near ones only."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__(config, layer)
        self.window = config.layer_windows[layer] if config.layer_windows else 0
        self.query_norm = build_norm(config, config.head_dim) if config.qk_norm else None
        self.key_norm = build_norm(config, config.head_dim) if config.qk_norm else None
        self.inputs = Together(self.query, self.key, self.value)
        self.positions = PositionScores(config) if config.disentangled else None

    def pack(self, packing: Packing = ONEDNN) -> list[ServedWeight]:
        """See `Linear.pack`."""
        if self.positions is None:
            packed = self.inputs.pack(packing)
        else:  # whose queries and keys are projected from positions too
            packed = [one for linear in (self.query, self.key, self.value) for one in linear.pack(packing)]
        return packed + self.output.pack(packing)

    def forward(
        self,
        x: Tensor,
        context: AttentionContext,
        rotation: tuple[Tensor, Tensor] | None,
        bias: Sequence[Tensor] | None,
        relative: RelativeStates | None = None,
    ) -> Tensor:
        """[num_tokens, hidden_size] to the same."""
        spans = context.adapter_spans
        if rotation is None:
            query, key, value = (self._heads(part) for part in self.inputs(x, spans))
        elif self.query_norm is not None and self.key_norm is not None:
            query, key, value = (self._heads(part) for part in self.inputs(x, spans))
            query, key = rotate(self.query_norm(query), rotation), rotate(self.key_norm(key), rotation)
        else:
            heads = self._heads(self.inputs.joined(x, spans))
            h, kv = self.num_heads, self.num_kv_heads
            unturned, value = heads.split_with_sizes((h + kv, kv), dim=1)
            query, key = rotate(unturned, rotation).split_with_sizes((h, kv), dim=1)
        if self.positions is not None and relative is not None:
            scores = self.positions(relative.states, (query, self.query), (key, self.key), spans)
            bias = context.pair_bias(relative.rows, *scores)
        out = context.attend(self.layer, query, (key, value), self.scale, bias, self.window)
        return self.output(out.reshape(x.shape[0], -1), spans)


class CrossAttention(Attention):
    """Decoder tokens look at the encoder's output, whose keys are computed once and then kept."""

    def __init__(self, config: TransformerConfig, layer: int) -> None:
        super().__init__(config, layer)
        self._memory = Together(self.key, self.value)

    def pack(self, packing: Packing = ONEDNN) -> list[ServedWeight]:
        """See `Linear.pack`."""
        return self.query.pack(packing) + self._memory.pack(packing) + self.output.pack(packing)

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        """[num_tokens, hidden_size] to the same."""
        query = self._heads(self.query(x, context.adapter_spans))
        fresh, memory, spans = None, context.memory, context.memory_spans
        if memory is not None:
            key, value = (self._heads(part) for part in self._memory(memory, spans))
            fresh = key, value
        out = context.attend_memory(self.layer, query, fresh, self.scale)
        return self.output(out.reshape(x.shape[0], -1), context.adapter_spans)
