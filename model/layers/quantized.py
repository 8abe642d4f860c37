"""Weights of 8 or 4 bits a number, and products with them by rows that are quantized to 8 bits as they come.

Nothing is calibrated: a weight's scales follow from its numbers, a row's from its largest. 8 bits: one scale an
output channel. 4 bits: a scale and a least number for each group of inputs of a channel. Products of codes are summed
as integers, so a row has the same bits whatever stands beside it. Without the package's kernels a plain body computes
the same, slowly.
"""

from functools import partial
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from model import kernels
from model.kernels.decoder import Product
from model.kernels.quantized import Weight, quantized_argmax, quantized_linear
from model.layers.eight_bits import FLOAT8, INT8, eight_bits
from model.layers.large_pages import LargePages
from model.layers.packed import Packing, bits_vary

Integers = Literal["int8", "int4"]
Quantization = Integers | Literal["fp8"]

GROUP = 32
"""Inputs of a channel that share a scale and a least number in 4 bits."""

_PANEL = 64  # output channels that lie together, as the kernels read them
_CHANNELS_AT_ONCE = 4 * _PANEL  # a cache holds them
_MAX_IN_FEATURES = 2**31 // (255 * 127)  # whose sums fit an int32


class QuantizedWeight:
    """A `ServedWeight` of codes and scales. Rows and biases of another dtype are cast to its own."""

    def __init__(
        self,
        weight: Tensor,
        dtype: torch.dtype,
        quantization: Integers,
        pages: LargePages | None = None,
    ) -> None:
        """Reads a weight of any floating-point dtype, some channels at a time, into `pages` (None: of its own)."""
        pages = LargePages() if pages is None else pages
        self.shape, self.dtype = weight.shape, dtype
        out_features, in_features = weight.shape
        self._group = GROUP if quantization == "int4" else 0
        self._padded = -(-in_features // (self._group or 4)) * (self._group or 4)
        num_panels = -(-out_features // _PANEL)
        if self._group:
            num_groups = self._padded // self._group
            self._codes = pages.empty((num_panels, self._padded // 8, _PANEL, 4), torch.uint8)
            self._scales = pages.empty((num_panels, num_groups, 2, _PANEL), torch.bfloat16)
        else:
            self._codes = pages.empty((num_panels, self._padded // 4, _PANEL, 4), torch.uint8)
            self._scales = pages.empty((num_panels, _PANEL), torch.float32)
        for first in range(0, out_features, _CHANNELS_AT_ONCE):
            self._fill(first // _PANEL, weight[first : first + _CHANNELS_AT_ONCE].float())

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        if x.dim() != 2:
            return self(x.flatten(0, -2), bias).view(*x.shape[:-1], -1)
        x, bias = x.to(self.dtype), None if bias is None else bias.to(self.dtype)
        if kernels.can_run(x):
            return quantized_linear(x, self.laid_out, bias)
        return self.slow_product(x, bias)

    def argmax(self, x: Tensor, bias: Tensor | None = None) -> Tensor | None:
        """The place [n] int64 of the first largest output of each row [n, in_features], without writing outputs; None
        where there is no kernel for that."""
        x, bias = x.to(self.dtype), None if bias is None else bias.to(self.dtype)
        if not kernels.can_run(x):
            return None
        return quantized_argmax(x, self.laid_out, bias)

    def slow_product(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """The same of [n, in_features] without kernels: the slow twin, in float64."""
        wide = x.double()
        scale = wide.abs().amax(1, keepdim=True) / 127
        codes = torch.where(scale > 0, wide / scale, wide).round()
        y = functional.linear(codes, self.plain().double()) * scale
        return (y if bias is None else y + bias).to(x.dtype)

    @property
    def laid_out(self) -> Weight:
        """For `kernels.quantized`."""
        return Weight(self._codes, self._scales, self.shape[0], self._padded, self._group)

    def product(self, bias: Tensor | None) -> Product:
        """Where it lies, for `kernels.decoder`."""
        return Product(
            self._codes.data_ptr(),
            self._scales.data_ptr(),
            None if bias is None else bias.data_ptr(),
            self.shape[1],
            self._padded,
            self.shape[0],
            self._group,
        )

    @property
    def nbytes(self) -> int:
        return self._codes.nbytes + self._scales.nbytes

    def plain(self) -> Tensor:
        """[out_features, in_features] float32: what the codes stand for."""
        out_features, in_features = self.shape
        codes = self._codes.transpose(1, 2)  # [panels, 64, padded / 4 or 8, 4]
        if self._group:
            codes = torch.stack((codes & 15, codes >> 4), dim=3)
            scale, least = (part.transpose(1, 2)[..., None].float() for part in self._scales.unbind(2))
            numbers = codes.reshape(*scale.shape[:3], self._group) * scale + least
        else:
            numbers = (codes.float() - 128) * self._scales[:, :, None, None]
        return numbers.reshape(-1, self._padded)[:out_features, :in_features]

    def varies(self) -> bool:
        return bits_vary(self, 1)

    def _fill(self, panel: int, numbers: Tensor) -> None:
        """Some channels [n, in_features] float32, from the panel `panel` on."""
        missing = -len(numbers) % _PANEL, self._padded - numbers.shape[1]
        numbers = torch.cat([numbers, numbers[:, -1:].expand(-1, missing[1])], dim=1)
        numbers = torch.cat([numbers, numbers.new_zeros(missing[0], self._padded)])
        num_panels = len(numbers) // _PANEL
        if not self._group:
            scale = numbers.abs().amax(1) / 127
            codes = torch.where(scale > 0, numbers.T / scale, 0).T.round_().add_(128).to(torch.uint8)
            codes = codes.view(num_panels, _PANEL, -1, 4)
            self._scales[panel : panel + num_panels] = scale.view(num_panels, _PANEL)
        else:
            groups = numbers.view(num_panels, _PANEL, -1, self._group)
            codes, scale, least = _nibbles(groups)
            low, high = codes.view(num_panels, _PANEL, -1, 2, 4).unbind(3)
            codes = low | high << 4
            self._scales[panel : panel + num_panels] = torch.stack((scale, least), dim=3).permute(0, 2, 3, 1)
        self._codes[panel : panel + num_panels] = codes.transpose(1, 2)


def quantizing(quantization: Quantization, dtype: torch.dtype) -> Packing:
    """To `QuantizedWeight`; of fp8, and of int8 on another device than a CPU, to `EightBitWeight`."""
    if quantization == "fp8":
        return eight_bits(FLOAT8, dtype)
    here = partial(QuantizedWeight, dtype=dtype, quantization=quantization, pages=LargePages())
    if quantization == "int4":
        return Packing(_can_quantize, here)
    there = eight_bits(INT8, dtype)
    return Packing(
        lambda weight: _can_quantize(weight) if weight.is_cpu else there.takes(weight),
        lambda weight: here(weight) if weight.is_cpu else there.pack(weight),
    )


def _can_quantize(weight: Tensor) -> bool:
    return weight.is_cpu and weight.is_floating_point() and weight.shape[1] <= _MAX_IN_FEATURES


def _nibbles(groups: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Codes [..., group] uint8 up to 15, scales and least numbers [...] bfloat16 of numbers [..., group]."""
    low, high = groups.aminmax(dim=-1, keepdim=True)
    least = low.bfloat16()
    scale = ((high - least.float()) / 15).bfloat16()
    wide = scale.float()
    codes = torch.where(wide > 0, (groups - least.float()) / wide, 0).round_().clamp_(0, 15)
    return codes.to(torch.uint8), scale[..., 0], least[..., 0]
