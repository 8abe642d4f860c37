"""Weights of 8-bit floating-point numbers (e4m3), with one scale an output channel; nothing is calibrated.

On a GPU that multiplies such numbers (compute capability 8.9 and later) the rows become such numbers too as they come,
with one scale each. Everywhere else the weight is made whole numbers of the rows' dtype again, some channels at a time:
that saves memory, and costs time.
"""

import logging
from functools import lru_cache, partial

import torch
from torch import Tensor
from torch.nn import functional

from model.layers.packed import Packing, bits_vary

_FLOAT8 = torch.float8_e4m3fn
_LARGEST = torch.finfo(_FLOAT8).max
_LEAST_SCALE = torch.finfo(torch.float32).tiny
_NUMBERS_AT_ONCE = 2**21
_MULTIPLE = 16  # of which both sizes of a weight must be for the product of a GPU
_TRIED_ROWS = (1, 17)

_log = logging.getLogger(__name__)


class Float8Weight:
    """A `ServedWeight`."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        """Reads a weight of any floating-point dtype, some channels at a time, and stays on its device."""
        self.shape, self.dtype = weight.shape, dtype
        out_features, in_features = weight.shape
        self._channels = max(1, _NUMBERS_AT_ONCE // in_features)
        self._codes = torch.empty(weight.shape, dtype=_FLOAT8, device=weight.device)
        self._scales = torch.empty(out_features, 1, device=weight.device)
        for first in range(0, out_features, self._channels):
            part = slice(first, first + self._channels)
            self._codes[part], self._scales[part] = to_float8(weight[part])
        self._is_scaled = can_multiply(weight.device, out_features, in_features)

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        if x.dim() != 2:
            return self(x.flatten(0, -2), bias).view(*x.shape[:-1], -1)
        if self._is_scaled:
            return scaled_product(x, self._codes, self._scales, bias)
        y = torch.empty(x.shape[0], self.shape[0], dtype=x.dtype, device=x.device)
        for first in range(0, self.shape[0], self._channels):
            part = slice(first, first + self._channels)
            product = functional.linear(x, self._codes[part].to(x.dtype)) * self._scales[part, 0]
            y[:, part] = product if bias is None else product + bias[part]
        return y

    @property
    def nbytes(self) -> int:
        return self._codes.nbytes + self._scales.nbytes

    def plain(self) -> Tensor:
        """[out_features, in_features] float32: what the codes stand for."""
        return self._codes.float() * self._scales

    def varies(self) -> bool:
        return bits_vary(self, 1)


def to_float8(numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [n, size] as codes of the same shape and scales [n, 1] float32; the largest of a row is the largest code."""
    wide = numbers.float()
    scales = (wide.abs().amax(1, keepdim=True) / _LARGEST).clamp(min=_LEAST_SCALE)
    return (wide / scales).clamp(-_LARGEST, _LARGEST).to(_FLOAT8), scales


def scaled_product(x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None) -> Tensor:
    """Rows x [n, in_features], made codes too, times codes [out_features, in_features] and scales [out_features, 1]."""
    rows, row_scales = to_float8(x)
    y = torch._scaled_mm(
        rows, codes.t(), scale_a=row_scales, scale_b=scales.t(), out_dtype=torch.bfloat16
    )  # the one dtype that it gives with a scale for each row
    return y.to(x.dtype) if bias is None else y.to(x.dtype) + bias


def float8(dtype: torch.dtype) -> Packing:
    """To `Float8Weight`."""
    return Packing(torch.is_floating_point, partial(Float8Weight, dtype=dtype))


@lru_cache
@torch.inference_mode()
def can_multiply(device: torch.device, out_features: int, in_features: int) -> bool:
    """Whether `scaled_product` takes such weights there. It is tried, and must come to what plain numbers give."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 9):
        return False
    if out_features % _MULTIPLE or in_features % _MULTIPLE:
        return False
    draws = torch.Generator().manual_seed(0)
    try:
        codes, scales = to_float8(torch.randn(out_features, in_features, generator=draws).to(device))
        for n in _TRIED_ROWS:
            x = torch.randn(n, in_features, generator=draws).to(device)
            wanted = functional.linear(x, codes.float() * scales)
            error = (scaled_product(x, codes, scales, None) - wanted).norm() / wanted.norm()
            if not error < 0.1:  # NaN is as bad
                raise ArithmeticError(f"off by {100 * error:.0f} %")
    except Exception as fault:  # one of many kernels, each with conditions of its own
        _log.warning(
            "products of 8-bit numbers of %d by %d are computed as plain ones, which is slower: %s: %s",
            *(out_features, in_features, type(fault).__name__, fault),
        )
        return False
    return True
