"""A linear projection to which low-rank adapters can be attached, several at a time. Packed, it serves on a CPU."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.layers.packed import (
    ONEDNN,
    PackedProduct,
    PackedWeight,
    Packing,
    ServedWeight,
    can_pack,
    without_numbers,
)

AdapterSpans = Sequence[tuple[str, int, int]]
"""Which rows of a flat batch go through which adapter: `(name, first row, row after the last)`."""


class LowRank(nn.Module):
    """The update `scale * B A x` of LoRA (Hu et al. 2021, arXiv:2106.09685)."""

    def __init__(self, in_features: int, out_features: int, rank: int, scale: float, dropout: float) -> None:
        super().__init__()
        self.scale = scale
        self.dropout = nn.Dropout(dropout)
        self.down = nn.Parameter(torch.empty(rank, in_features))
        self.up = nn.Parameter(torch.zeros(out_features, rank))
        nn.init.kaiming_uniform_(self.down, a=math.sqrt(5))
        self._packed: tuple[PackedWeight, PackedWeight] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features]; packed, of flat rows."""
        if self._packed is not None:
            down, up = self._packed
            return up(down(x)) * self.scale
        return functional.linear(functional.linear(self.dropout(x), self.down), self.up) * self.scale

    def pack(self) -> list[ServedWeight]:
        """See `Linear.pack`."""
        if not can_pack(self.down):
            return []
        self._packed = PackedWeight(self.down), PackedWeight(self.up)
        self.down, self.up = without_numbers(self.down), without_numbers(self.up)
        return [*self._packed]


class WholeLayer(nn.Module):
    """What an adapter that brings a layer whole computes in its place."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)
        self._packed: PackedWeight | None = None

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features]; packed, of flat rows."""
        if self._packed is not None:
            return self._packed(x, self.bias)
        return functional.linear(x, self.weight, self.bias)

    def pack(self) -> list[ServedWeight]:
        """See `Linear.pack`."""
        if not can_pack(self.weight):
            return []
        self._packed = PackedWeight(self.weight)
        self.weight = without_numbers(self.weight)
        return [self._packed]


Update = LowRank | WholeLayer
"""What an adapter does to a layer."""


class Linear(nn.Linear):
    """`nn.Linear` whose rows may each belong to an adapter. Its weights are drawn by whoever builds the model."""

    def reset_parameters(self) -> None:
        """Nothing: drawing numbers here would only be overwritten, and on the meta device costs seconds."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.adapters = nn.ModuleDict()
        self._packed: PackedProduct | None = None

    def forward(self, x: Tensor, adapter_spans: AdapterSpans = ()) -> Tensor:
        """[num_tokens, in_features] to [num_tokens, out_features]; rows outside all spans are plain."""
        y = functional.linear(x, self.weight, self.bias) if self._packed is None else self._packed(x)
        return self.adapt(y, x, adapter_spans)

    def adapt(self, y: Tensor, x: Tensor, adapter_spans: AdapterSpans) -> Tensor:
        """The plain output `y` of `x` with each span's update added, in place where that saves a copy; a
        `WholeLayer` takes its place instead."""
        if not adapter_spans or not self.adapters:
            return y
        for name, start, stop in adapter_spans:
            if name not in self.adapters:
                continue
            update = self.adapters[name]
            is_whole = isinstance(update, WholeLayer)
            if stop - start == x.shape[0]:
                return update(x) if is_whole else y + update(x)
            if is_whole:
                y[start:stop] = update(x[start:stop])
            else:
                y[start:stop] += update(x[start:stop])
        return y

    @property
    def product(self) -> PackedProduct | None:
        """What it was packed to, if it was."""
        return self._packed

    def holds(self, weight: Tensor) -> bool:
        """Whether its weight is this one, or what becomes of it where the layer is packed, by itself."""
        if self._packed is None:
            return torch.equal(self.weight, weight)
        return torch.equal(self._packed.weight.plain(), self._packed.packing.pack(weight).plain())

    def pack(self, packing: Packing = ONEDNN) -> list[ServedWeight]:
        """Lays the weight out for serving, where it can be and was not before. Returns what it has become."""
        if not packing.takes(self.weight):
            return []
        self._packed = PackedProduct([self], packing)
        return [self._packed.weight]


class Together:
    """Linears that read the same rows. One product where they are packed, one each where they are not."""

    def __init__(self, *linears: Linear) -> None:
        self._linears = linears
        self._packed: PackedProduct | None = None

    @property
    def product(self) -> PackedProduct | None:
        """Of all of them side by side, where they are packed."""
        return self._packed

    def __call__(self, x: Tensor, adapter_spans: AdapterSpans) -> list[Tensor]:
        """[num_tokens, in_features] to each linear's [num_tokens, out_features]."""
        if self._packed is None:
            return [linear(x, adapter_spans) for linear in self._linears]
        parts = self._packed(x).split_with_sizes(self._packed.sizes, dim=-1)
        if not adapter_spans:
            return list(parts)
        return [
            linear.adapt(part, x, adapter_spans) for linear, part in zip(self._linears, parts, strict=True)
        ]

    def joined(self, x: Tensor, adapter_spans: AdapterSpans) -> Tensor:
        """The same outputs side by side in one tensor [num_tokens, sum of out_features]."""
        if self._packed is None or adapter_spans:
            return torch.cat(self(x, adapter_spans), dim=-1)
        return self._packed(x)

    def pack(self, packing: Packing = ONEDNN) -> list[ServedWeight]:
        """See `Linear.pack`."""
        if not all(packing.takes(linear.weight) for linear in self._linears):
            return []
        self._packed = PackedProduct(self._linears, packing)
        return [self._packed.weight]
