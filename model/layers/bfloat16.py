"""bfloat16 weights in panels, for the package's own products: what decides whether weights come from memory, by large
pages and ahead of time, while rows are multiplied.

`functional.linear` with `plain()` is the slow twin. Other processors, and other dtypes, have oneDNN's.
"""

from functools import partial

import torch
from torch import Tensor

from model.kernels import bfloat16 as kernels
from model.kernels.decoder import Product
from model.layers.large_pages import LargePages
from model.layers.packed import PackedWeight, Packing, ServedWeight, bits_vary, can_pack

_FEW_OUTPUTS = 16
"""Fewer, as classes are, leave a panel mostly empty: of nine, oneDNN makes products of 300 rows in half the time."""


class PaneledWeight:
    """A `ServedWeight` of bfloat16 numbers, where `kernels.can_multiply`."""

    dtype = torch.bfloat16

    def __init__(self, weight: Tensor, pages: LargePages | None = None) -> None:
        """Copies a bfloat16 weight into `pages` (None: of its own)."""
        pages = LargePages() if pages is None else pages
        self.shape = weight.shape
        self._panels = pages.empty(kernels.laid_out_shape(*weight.shape), torch.bfloat16)
        kernels.lay_out(weight.detach(), self._panels)

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        if x.dim() != 2:
            return self(x.flatten(0, -2), bias).view(*x.shape[:-1], -1)
        return kernels.linear(x, self._panels, bias, self.shape[0])

    def product(self, bias: Tensor | None) -> Product:
        """Where it lies, for `model.kernels.decoder`."""
        out_features, in_features = self.shape
        address = None if bias is None else bias.data_ptr()
        return Product(self._panels.data_ptr(), None, address, in_features, 0, out_features, 0)

    @property
    def nbytes(self) -> int:
        return self._panels.nbytes

    def plain(self) -> Tensor:
        out_features, in_features = self.shape
        numbers = self._panels.transpose(1, 2).flatten(2)  # [panels, 64, inputs]
        return numbers.flatten(0, 1)[:out_features, :in_features].contiguous()

    def varies(self) -> bool:
        return bits_vary(self, 1)


def serving() -> Packing:
    """The way to lay out a model's weights that is fastest here: ours where there is one, else oneDNN's."""
    return Packing(can_pack, partial(_pack, pages=LargePages()))


def _pack(weight: Tensor, pages: LargePages) -> ServedWeight:
    is_wide = weight.shape[0] >= _FEW_OUTPUTS
    if is_wide and weight.dtype is torch.bfloat16 and kernels.can_multiply():
        return PaneledWeight(weight, pages)
    return PackedWeight(weight)
