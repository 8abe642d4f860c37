"""Products with quantized weights, as `quantized.h` lays these out; a caller asks `kernels.can_run` first."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from model.kernels import _num_threads, library

_FEW_CODES = 2**20
"""Bytes of quantized weights times rows that one thread multiplies meanwhile."""


class Weight(NamedTuple):
    """A weight [out_features, in_features] as `quantized.h` lays it out."""

    codes: Tensor
    scales: Tensor
    out_features: int
    padded: int
    group: int


def quantized_linear(x: Tensor, weight: Weight, bias: Tensor | None, level: int = 0) -> Tensor:
    """Rows x [n, in_features] times a weight, to [n, out_features].

    `bias` has the dtype of x. A `level` over 0 leaves out the best so many kinds of processors, for tests.
    """
    out = torch.empty(len(x), weight.out_features, dtype=x.dtype)
    return _multiply(library().quantized_linear, x, weight, bias, level, out)


def quantized_argmax(x: Tensor, weight: Weight, bias: Tensor | None, level: int = 0) -> Tensor:
    """`kernels.argmax` of what `quantized_linear` gives, [n] int64; that is never written."""
    out = torch.empty(len(x), dtype=torch.int64)
    return _multiply(library().quantized_argmax, x, weight, bias, level, out)


def _multiply(
    kernel: Callable[..., object], x: Tensor, weight: Weight, bias: Tensor | None, level: int, out: Tensor
) -> Tensor:
    x = x if x.stride(1) == 1 else x.contiguous()
    n, in_features = x.shape
    num_groups = weight.padded // weight.group if weight.group else 1
    scratch = torch.empty(n * (weight.padded + 4 + 4 * num_groups), dtype=torch.uint8)
    kernel(
        x.data_ptr(),
        weight.codes.data_ptr(),
        weight.scales.data_ptr(),
        None if bias is None else bias.data_ptr(),
        out.data_ptr(),
        scratch.data_ptr(),
        n,
        in_features,
        weight.padded,
        weight.out_features,
        x.stride(0),
        weight.group,
        level,
        x.dtype is torch.bfloat16,
        _num_threads(n * weight.codes.numel(), _FEW_CODES),
    )
    return out
