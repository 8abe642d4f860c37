"""A decoder's layers in one call: for steps over the paged cache on a CPU, where products are kernels of ours.

`model.blocks.Stack` walks its layers module by module, which is the slow twin: each stage here is the kernel that a
module calls there, and the bits are the same. Only families of Llama's shape have it: RMSNorm before each part,
rotary positions, a gated feed-forward network.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from model import kernels
from model.blocks import Block, Stack
from model.config import TransformerConfig
from model.kernels.decoder import Decoder, Layer, PagedQueries, Product, decode_layers
from model.layers.bfloat16 import PaneledWeight
from model.layers.norms import RMSNorm
from model.layers.quantized import QuantizedWeight

_ACTIVATIONS = {"silu": 0, "gelu_new": 1, "gelu_pytorch_tanh": 1}


class FusedLayers:
    """All layers of a stack and the norm behind them."""

    def __init__(self, decoder: Decoder) -> None:
        self._decoder = decoder

    def __call__(
        self,
        x: Tensor,
        rotations: Sequence[tuple[Tensor, Tensor]],
        queries: PagedQueries,
        wanted: Tensor | None = None,
    ) -> Tensor | None:
        """[n, hidden_size] embedded tokens to hidden states of the same shape, or of `wanted` rows; None where the
        modules must do it."""
        if not kernels.can_run(x, queries.caches[0]):
            return None
        return decode_layers(self._decoder, x, rotations, queries, wanted)


def fuse(stack: Stack, config: TransformerConfig, dtype: torch.dtype) -> FusedLayers | None:
    """None where the stack is of another shape, or a weight has no kernel of ours. It has to outlive the result."""
    shape = (config.kind, config.pre_norm, config.norm, config.position, config.gated_mlp)
    is_gelu = _ACTIVATIONS.get(config.activation)
    if shape != ("decoder", True, "rmsnorm", "rotary", True) or is_gelu is None or config.skip_first_norm:
        return None
    layers = []
    for block, rotation in zip(stack.layers, stack.rotary_of_layer, strict=True):
        assert isinstance(block, Block)
        products = _products(block)
        if products is None:
            return None
        layers.append(Layer(*_norms(block), *products, block.self_attention.window, rotation))
    return FusedLayers(
        Decoder(
            (Layer * len(layers))(*layers),
            _address(stack.final_norm),
            len(layers),
            config.hidden_size,
            config.num_heads,
            config.num_kv_heads,
            config.head_dim,
            config.intermediate_size,
            config.attention_scale,
            config.norm_eps,
            config.norm_offset,
            is_gelu,
            dtype is torch.bfloat16,
        )
    )


def _norms(block: Block) -> list[int | None]:
    attention = block.self_attention
    norms = (
        block.self_norm,
        attention.query_norm,
        attention.key_norm,
        block.self_post_norm,
        block.mlp_norm,
        block.mlp_post_norm,
    )
    return [None if norm is None else _address(norm) for norm in norms]


def _address(norm: nn.Module | None) -> int:
    assert isinstance(norm, RMSNorm)
    return norm.weight.data_ptr()


def _products(block: Block) -> list[Product] | None:
    attention, mlp = block.self_attention, block.mlp
    layers = (attention.inputs, attention.output, mlp.inputs, mlp.down)
    found = []
    for product in (layer.product for layer in layers):
        if product is None or not isinstance(product.weight, QuantizedWeight | PaneledWeight):
            return None
        found.append(product.weight.product(product.bias))
    return found
