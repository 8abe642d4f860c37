"""A layer, and a stack of layers: the encoder or the decoder of the one Transformer."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from model.config import TransformerConfig
from model.kernels.decoder import PagedQueries
from model.layers.attention import CrossAttention, SelfAttention
from model.layers.context import AttentionContext
from model.layers.disentangled import RelativePositions, RelativeStates
from model.layers.linear import AdapterSpans
from model.layers.mlp import FeedForward
from model.layers.norms import add_norm, build_norm, norm_of_sum
from model.layers.positions import RelativeBias, Rotary

FusedStack = Callable[[Tensor, Sequence[tuple[Tensor, Tensor]], PagedQueries, Tensor | None], Tensor | None]
"""A stack in one call: embedded rows, and what `Rotary` gives for each kind of layer, to the last hidden states of all
or of the wanted rows; None where it must be done layer by layer."""


@dataclass(frozen=True)
class Wanted:
    """The flat rows [n] whose last hidden states are asked for, and which of these belong to which adapter."""

    rows: Tensor
    adapter_spans: AdapterSpans = ()


class Block(nn.Module):
    """Self-attention, cross-attention in a decoder that has an encoder, feed-forward.

    Each is wrapped in a residual connection with its norm before (`pre_norm`) or after the sum;
    with `sandwich_norm` there is one before, and one after but within the sum.
    """

    def __init__(self, config: TransformerConfig, layer: int, has_cross: bool) -> None:
        super().__init__()
        self.pre_norm = config.pre_norm
        self.self_attention = SelfAttention(config, layer)
        self.self_norm = nn.Identity() if layer == 0 and config.skip_first_norm else build_norm(config)
        self.self_post_norm = build_norm(config) if config.sandwich_norm else None
        self.cross_attention = CrossAttention(config, layer) if has_cross else None
        self.cross_norm = build_norm(config) if has_cross else None
        self.mlp = FeedForward(config)
        self.mlp_norm = build_norm(config)
        self.mlp_post_norm = build_norm(config) if config.sandwich_norm else None
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        context: AttentionContext,
        rotation: tuple[Tensor, Tensor] | None,
        bias: Sequence[Tensor] | None,
        relative: RelativeStates | None,
        wanted: Wanted | None = None,
    ) -> Tensor:
        """[num_tokens, hidden_size] to the same, or of the last layer what is `wanted`, [n, hidden_size].

        All tokens are attended to, but the feed-forward network sees only those.
        """
        spans = context.adapter_spans if wanted is None else wanted.adapter_spans
        if not self.pre_norm:
            update = self.self_attention(x, context, rotation, bias, relative)
            x = norm_of_sum(self.self_norm, x, self._drop(update))
            if self.cross_attention is not None and self.cross_norm is not None:
                x = norm_of_sum(self.cross_norm, x, self._drop(self.cross_attention(x, context)))
            x = x if wanted is None else x.index_select(0, wanted.rows)
            return norm_of_sum(self.mlp_norm, x, self._drop(self.mlp(x, spans)))
        update = self.self_attention(self.self_norm(x), context, rotation, bias, relative)
        if self.self_post_norm is not None:
            update = self.self_post_norm(update)
        if self.cross_attention is not None and self.cross_norm is not None:
            x, normed = add_norm(self.cross_norm, x, self._drop(update))
            update = self.cross_attention(normed, context)
        if wanted is not None:
            x, update = x.index_select(0, wanted.rows), update.index_select(0, wanted.rows)
        x, normed = add_norm(self.mlp_norm, x, self._drop(update))
        update = self.mlp(normed, spans)
        if self.mlp_post_norm is not None:
            update = self.mlp_post_norm(update)
        return x + self._drop(update)

    def _drop(self, x: Tensor) -> Tensor:
        """Without the call where it would change nothing: a decode step has dozens of them."""
        return self.dropout(x) if self.training else x


class Stack(nn.Module):
    """Layers one above the other, with what they share: angles, biases or states of positions, last norm."""

    def __init__(self, config: TransformerConfig, is_decoder: bool) -> None:
        super().__init__()
        num_layers = config.num_decoder_layers if is_decoder else config.num_encoder_layers
        has_cross = is_decoder and config.kind == "encoder-decoder"
        self.layers = nn.ModuleList(Block(config, i, has_cross) for i in range(num_layers))
        self.final_norm = build_norm(config) if config.pre_norm else None
        self.dropout = nn.Dropout(config.dropout)
        self.rotary = nn.ModuleList()  # one for each kind of layer
        self.rotary_of_layer: list[int] = []
        if config.position == "rotary":
            kinds = _rotary_kinds(config, num_layers)
            distinct = list(dict.fromkeys(kinds))
            self.rotary.extend(_rotary(config, *kind) for kind in distinct)
            self.rotary_of_layer = [distinct.index(kind) for kind in kinds]
        self.relative = None
        if config.position == "relative":
            self.relative = RelativeBias(
                config.relative_buckets, config.relative_max_distance, config.num_heads, not is_decoder
            )
        self.positions = RelativePositions(config) if config.disentangled else None
        self.fused: FusedStack | None = None

    def forward(self, x: Tensor, context: AttentionContext, wanted: Wanted | None = None) -> Tensor:
        """[num_tokens, hidden_size] embedded tokens to hidden states of the same shape, or of `wanted` rows."""
        rotations = [rotary(context.positions, x.dtype) for rotary in self.rotary]
        queries = None if self.fused is None else context.paged_queries()
        if self.fused is not None and queries is not None:
            states = self.fused(x, rotations, queries, None if wanted is None else wanted.rows)
            if states is not None:
                return states
        bias = None if self.relative is None else context.position_bias(self.relative)
        relative = None if self.positions is None else self.positions(context.pairs())
        for i, layer in enumerate(self.layers):
            rotation = rotations[self.rotary_of_layer[i]] if rotations else None
            x = layer(x, context, rotation, bias, relative, wanted if i == len(self.layers) - 1 else None)
        if self.final_norm is not None:
            x = self.dropout(self.final_norm(x))
        return x


def _rotary_kinds(config: TransformerConfig, num_layers: int) -> list[tuple[float, bool]]:
    """Each layer's theta, and whether `rope_scaling` is for it."""
    if not config.layer_rope_thetas:
        return [(config.rope_theta, True)] * num_layers
    windows = config.layer_windows or (0,) * num_layers
    return [(theta, not window) for theta, window in zip(config.layer_rope_thetas, windows, strict=True)]


def _rotary(config: TransformerConfig, theta: float, is_scaled: bool) -> Rotary:
    scaling = config.rope_scaling if is_scaled else {}
    # Beyond this length "dynamic" scaling is not a function of the position; see `model.families.rope`.
    limit = config.max_positions if scaling.get("rope_type") == "dynamic" else None
    return Rotary(config.head_dim, theta, scaling, limit)
