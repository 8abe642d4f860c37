"""A layer, and a stack of layers: the encoder or the decoder of the one Transformer."""

from collections.abc import Sequence

from torch import Tensor, nn

from model.config import TransformerConfig
from model.layers.attention import CrossAttention, SelfAttention
from model.layers.context import AttentionContext
from model.layers.mlp import FeedForward
from model.layers.norms import build_norm
from model.layers.positions import RelativeBias, Rotary


class Block(nn.Module):
    """Self-attention, cross-attention in a decoder that has an encoder, feed-forward.

    Each is wrapped in a residual connection with its norm before (`pre_norm`) or after the sum.
    """

    def __init__(self, config: TransformerConfig, layer: int, has_cross: bool) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm
        self.self_attention = SelfAttention(config, layer)
        self.self_norm = build_norm(config)
        self.cross_attention = CrossAttention(config, layer) if has_cross else None
        self.cross_norm = build_norm(config) if has_cross else None
        self.mlp = FeedForward(config)
        self.mlp_norm = build_norm(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        context: AttentionContext,
        rotation: tuple[Tensor, Tensor] | None,
        bias: Sequence[Tensor] | None,
    ) -> Tensor:
        """[num_tokens, hidden_size] to the same."""
        if self.pre_norm:
            x = x + self.dropout(self.self_attention(self.self_norm(x), context, rotation, bias))
            if self.cross_attention is not None and self.cross_norm is not None:
                x = x + self.dropout(self.cross_attention(self.cross_norm(x), context))
            return x + self.dropout(self.mlp(self.mlp_norm(x), context.adapter_spans))
        x = self.self_norm(x + self.dropout(self.self_attention(x, context, rotation, bias)))
        if self.cross_attention is not None and self.cross_norm is not None:
            x = self.cross_norm(x + self.dropout(self.cross_attention(x, context)))
        return self.mlp_norm(x + self.dropout(self.mlp(x, context.adapter_spans)))


class Stack(nn.Module):
    """Layers one above the other, with what they share: rotary angles, relative bias, last norm."""

    def __init__(self, config: TransformerConfig, is_decoder: bool) -> None:
        super().__init__()
        num_layers = config.num_decoder_layers if is_decoder else config.num_encoder_layers
        has_cross = is_decoder and config.kind == "encoder-decoder"
        self.layers = nn.ModuleList(Block(config, i, has_cross) for i in range(num_layers))
        self.final_norm = build_norm(config) if config.pre_norm else None
        self.dropout = nn.Dropout(config.dropout)
        self.rotary = _rotary(config) if config.position == "rotary" else None
        self.relative = None
        if config.position == "relative":
            self.relative = RelativeBias(
                config.relative_buckets, config.relative_max_distance, config.num_heads, not is_decoder
            )

    def forward(self, x: Tensor, context: AttentionContext) -> Tensor:
        """[num_tokens, hidden_size] embedded tokens to hidden states of the same shape."""
        rotation = None if self.rotary is None else self.rotary(context.positions, x.dtype)
        bias = None if self.relative is None else context.position_bias(self.relative)
        for layer in self.layers:
            x = layer(x, context, rotation, bias)
        if self.final_norm is not None:
            x = self.dropout(self.final_norm(x))
        return x


def _rotary(config: TransformerConfig) -> Rotary:
    scaling = config.rope_scaling
    # Beyond this length "dynamic" scaling is not a function of the position; see `model.families.rope`.
    limit = config.max_positions if scaling.get("rope_type") == "dynamic" else None
    return Rotary(config.head_dim, config.rope_theta, scaling, limit)
