"""Products of bfloat16 rows and weights, as `bfloat16.h` lays these out; a caller asks `can_multiply` first."""

from collections.abc import Sequence

import torch
from torch import Tensor

from model import kernels

PANEL = 64
"""Output channels that lie together."""

_FEW_PRODUCTS = 2**20
"""Of numbers: what one thread multiplies before another would have woken up."""


def can_multiply() -> bool:
    """Whether the package has kernels for this processor, and knows of no faster products."""
    return kernels.has_bfloat16_linear()


def laid_out_shape(out_features: int, in_features: int) -> Sequence[int]:
    """Of a laid out weight: [panels, pairs of inputs, outputs of a panel, 2]."""
    return -(-out_features // PANEL), -(-in_features // 2), PANEL, 2


def lay_out(weight: Tensor, to: Tensor) -> None:
    """Weights [out_features, in_features] into `to` of `laid_out_shape`; where there are no numbers it gets noughts."""
    weight = weight if weight.stride(1) == 1 else weight.contiguous()
    out_features, in_features = weight.shape
    kernels.library().lay_out_bfloat16(
        weight.data_ptr(),
        to.data_ptr(),
        out_features,
        in_features,
        weight.stride(0),
        True,
        _num_threads(weight.numel()),
    )


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, out_features: int) -> Tensor:
    """Rows x [n, in_features] with any stride from row to row times a laid out weight, to [n, out_features].

    Sums are float32, over the inputs in their order by pairs: a row has the same bits whatever stands beside it.
    The processor takes numbers and products below the smallest normal one, 1.2e-38, for noughts.
    """
    x = x if x.stride(1) == 1 else x.contiguous()
    n, in_features = x.shape
    out = torch.empty(n, out_features, dtype=torch.bfloat16)
    kernels.library().bfloat16_linear(
        x.data_ptr(),
        weight.data_ptr(),
        None if bias is None else bias.data_ptr(),
        out.data_ptr(),
        n,
        in_features,
        out_features,
        x.stride(0),
        True,
        _num_threads(n * weight.numel()),
    )
    return out


def _num_threads(amount: int) -> int:
    return torch.get_num_threads() if amount > _FEW_PRODUCTS else 1
