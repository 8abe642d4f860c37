"""Products with quantized weights, as `quantized.h` lays these out; a caller asks `kernels.can_run` first."""

from collections.abc import Callable

import torch
from torch import Tensor

from model.kernels import _num_threads, library

_FEW_CODES = 2**20
"""Bytes of quantized weights times rows that one thread multiplies meanwhile."""


def quantized_linear(
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    out_features: int,
    padded: int,
    group: int,
    level: int = 0,
) -> Tensor:
    """Rows x [n, in_features] times codes and scales as `quantized.h` lays them out, to [n, out_features].

    `bias` has the dtype of x. A `level` over 0 leaves out the best so many kinds of processors, for tests.
    """
    out = torch.empty(len(x), out_features, dtype=x.dtype)
    _multiply(library().quantized_linear, x, codes, scales, bias, out, out_features, padded, group, level)
    return out


def quantized_argmax(
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    out_features: int,
    padded: int,
    group: int,
    level: int = 0,
) -> Tensor:
    """`kernels.argmax` of what `quantized_linear` gives, [n] int64; that is never written."""
    out = torch.empty(len(x), dtype=torch.int64)
    _multiply(library().quantized_argmax, x, codes, scales, bias, out, out_features, padded, group, level)
    return out


def _multiply(
    kernel: Callable[..., object],
    x: Tensor,
    codes: Tensor,
    scales: Tensor,
    bias: Tensor | None,
    out: Tensor,
    out_features: int,
    padded: int,
    group: int,
    level: int,
) -> None:
    x = x if x.stride(1) == 1 else x.contiguous()
    n, in_features = x.shape
    num_groups = padded // group if group else 1
    scratch = torch.empty(n * (padded + 4 + 4 * num_groups), dtype=torch.uint8)
    kernel(
        x.data_ptr(),
        codes.data_ptr(),
        scales.data_ptr(),
        None if bias is None else bias.data_ptr(),
        out.data_ptr(),
        scratch.data_ptr(),
        n,
        in_features,
        padded,
        out_features,
        x.stride(0),
        group,
        level,
        x.dtype is torch.bfloat16,
        _num_threads(n * codes.numel(), _FEW_CODES),
    )
