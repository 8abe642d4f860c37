"""Weights of 8 bits a number with one scale an output channel, as a GPU multiplies them; nothing is calibrated.

Where it can, the rows become such numbers too as they come, with one scale each. Everywhere else the weight is made
numbers of the rows' dtype again, some channels at a time: that saves memory, and costs time. On a CPU 8-bit integers
are `model.layers.quantized`, which has products of its own.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial

import torch
from torch import Tensor
from torch.nn import functional

from model.layers.packed import Packing, bits_vary

_LEAST_SCALE = torch.finfo(torch.float32).tiny
_NUMBERS_AT_ONCE = 2**21
_TRIED_ROWS = (1, 17)

_log = logging.getLogger(__name__)


def _float_product(rows: Tensor, row_scales: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    return torch._scaled_mm(
        rows, codes.t(), scale_a=row_scales, scale_b=scales.t(), out_dtype=torch.bfloat16
    )  # the one dtype that it gives with a scale for each row


def _integer_product(rows: Tensor, row_scales: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    missing = max(0, _LEAST_INTEGER_ROWS - len(rows))
    sums = torch._int_mm(functional.pad(rows, (0, 0, 0, missing)), codes.t())[: len(rows)]
    return sums * row_scales * scales.t()


_LEAST_INTEGER_ROWS = 32  # cuBLAS takes more than 16


@dataclass(frozen=True)
class Numbers:
    """A kind of them: up to `largest` in `dtype`. GPUs of `capability` and later multiply them, where both sizes of a
    weight are multiples of `multiple`: `product` of codes [n, in_features] and scales [n, 1] of rows, and
    codes [out_features, in_features] and scales [out_features, 1] of a weight."""

    dtype: torch.dtype
    largest: float
    capability: tuple[int, int]
    multiple: int
    product: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

    def encode(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Rows [n, size] as codes of the same shape and scales [n, 1] float32; a row's largest is the largest code."""
        wide = numbers.float()
        scales = (wide.abs().amax(1, keepdim=True) / self.largest).clamp(min=_LEAST_SCALE)
        codes = (wide / scales).clamp(-self.largest, self.largest)
        return (codes if self.dtype.is_floating_point else codes.round()).to(self.dtype), scales

    def multiply(self, x: Tensor, codes: Tensor, scales: Tensor, bias: Tensor | None = None) -> Tensor:
        """Rows x [n, in_features], made codes too, times a weight's codes and scales."""
        y = self.product(*self.encode(x), codes, scales).to(x.dtype)
        return y if bias is None else y + bias


FLOAT8 = Numbers(torch.float8_e4m3fn, torch.finfo(torch.float8_e4m3fn).max, (8, 9), 16, _float_product)
INT8 = Numbers(torch.int8, 127.0, (7, 5), 8, _integer_product)


class EightBitWeight:
    """A `ServedWeight`."""

    def __init__(self, weight: Tensor, dtype: torch.dtype, numbers: Numbers) -> None:
        """Reads a weight of any floating-point dtype, some channels at a time, and stays on its device."""
        self.shape, self.dtype, self._numbers = weight.shape, dtype, numbers
        out_features, in_features = weight.shape
        self._channels = max(1, _NUMBERS_AT_ONCE // in_features)
        self._codes = torch.empty(weight.shape, dtype=numbers.dtype, device=weight.device)
        self._scales = torch.empty(out_features, 1, device=weight.device)
        for first in range(0, out_features, self._channels):
            part = slice(first, first + self._channels)
            self._codes[part], self._scales[part] = numbers.encode(weight[part])
        self._is_multiplied = can_multiply(numbers, weight.device, out_features, in_features)

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        if x.dim() != 2:
            return self(x.flatten(0, -2), bias).view(*x.shape[:-1], -1)
        if self._is_multiplied:
            return self._numbers.multiply(x, self._codes, self._scales, bias)
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


def eight_bits(numbers: Numbers, dtype: torch.dtype) -> Packing:
    """To `EightBitWeight`."""
    return Packing(_has_numbers, partial(EightBitWeight, dtype=dtype, numbers=numbers))


def _has_numbers(weight: Tensor) -> bool:
    return weight.is_floating_point() and not weight.is_meta  # what is left of a weight that was packed


@lru_cache
@torch.inference_mode()
def can_multiply(numbers: Numbers, device: torch.device, out_features: int, in_features: int) -> bool:
    """Whether the device does so with such weights. It is tried, and must come to what plain numbers give."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device) < numbers.capability:
        return False
    if out_features % numbers.multiple or in_features % numbers.multiple:
        return False
    draws = torch.Generator().manual_seed(0)
    try:
        weight = torch.randn(out_features, in_features, generator=draws).to(device)
        codes, scales = numbers.encode(weight)
        for n in _TRIED_ROWS:
            x = torch.randn(n, in_features, generator=draws).to(device)
            wanted = functional.linear(x, codes.float() * scales)
            error = (numbers.multiply(x, codes, scales) - wanted).norm() / wanted.norm()
            if not error < 0.1:  # NaN is as bad
                raise ArithmeticError(f"off by {100 * error:.0f} %")
    except Exception as fault:  # one of many kernels, each with conditions of its own
        _log.warning(
            "products of %s by %d by %d are computed as plain ones, which is slower: %s: %s",
            *(numbers.dtype, out_features, in_features, type(fault).__name__, fault),
        )
        return False
    return True
