"""Weights laid out for oneDNN, and products with them: what makes the few rows of a decode step cheap on a CPU.

Plain float32 products of 16 rows reach a third of what packed ones do. And a row of a packed product comes out the
same, bit for bit, however many rows stand beside it, which plain ones do not promise: `varies` looks whether it is so.
`functional.linear` is the slow twin.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional

MIN_ROWS: Mapping[torch.dtype, int] = {torch.float32: 4, torch.bfloat16: 2}
"""A single row of a long product is summed in another order, and one to three of float32 take longer than four."""

_ROWS_HINT = 16
_PROBED_ROWS = (1, 2, 3, 5, 7, 16, 33, 64, 600)
_PROBED_OPERATIONS = 2e9


class ServedWeight(Protocol):
    """[out_features, in_features] laid out for products with few rows; `dtype` is that of rows and products."""

    shape: torch.Size
    dtype: torch.dtype

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """[..., in_features] to [..., out_features]."""
        ...

    @property
    def nbytes(self) -> int:
        """What it takes of memory."""
        ...

    def plain(self) -> Tensor:
        """A copy that anybody can read."""
        ...

    def varies(self) -> bool:
        """Whether bits of a row's product with it depend on the number of rows, on this machine."""
        ...


@dataclass(frozen=True)
class Packing:
    """A way to lay weights out: which it takes, and what it makes of one."""

    takes: Callable[[Tensor], bool]
    pack: Callable[[Tensor], ServedWeight]


class PackedWeight:
    """A `ServedWeight` in oneDNN's own order."""

    def __init__(self, weight: Tensor) -> None:
        self.shape, self.dtype = weight.shape, weight.dtype
        self._min_rows = MIN_ROWS[weight.dtype]
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), _ROWS_HINT)
        self._packed: Tensor = packed

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        if x.dim() != 2:
            return self(x.flatten(0, -2), bias).view(*x.shape[:-1], -1)
        num_rows = x.shape[0]
        if num_rows < self._min_rows:
            x = functional.pad(x, (0, 0, 0, self._min_rows - num_rows))
        y: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, self._packed, bias, "none", [], "")
        return y[:num_rows] if num_rows < self._min_rows else y

    @property
    def nbytes(self) -> int:
        return self.shape.numel() * self.dtype.itemsize

    def plain(self) -> Tensor:
        return self._packed.to_dense()

    def varies(self) -> bool:
        return bits_vary(self, self._min_rows)


@torch.inference_mode()
def bits_vary(weight: ServedWeight, tile: int) -> bool:
    """Whether a row's product depends on the number of rows, beside the same product of `tile` rows at once."""
    out_features, in_features = weight.shape
    most = max(2 * tile, int(_PROBED_OPERATIONS / (out_features * in_features)))
    counts = [count for count in _PROBED_ROWS if count <= most]
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(counts[-1], in_features, generator=draws).to(weight.dtype)
    alone = torch.cat([weight(part) for part in torch.split(x[: _PROBED_ROWS[-2]], tile)])
    return any(not torch.equal(weight(x[:count])[: len(alone)], alone[:count]) for count in counts)


class PackedProduct:
    """The weights of linears that read the same rows: one product for all of them."""

    def __init__(self, linears: Sequence[nn.Linear], packing: Packing) -> None:
        """Takes the weights over: what is left in each linear keeps shape and dtype, and nothing to read."""
        self.sizes = [linear.out_features for linear in linears]
        weights: list[Tensor] = [linear.weight for linear in linears]
        weight = torch.cat(weights) if len(weights) > 1 else weights[0]
        self.packing = packing
        self.weight = packing.pack(weight)
        biases: list[Tensor | None] = [linear.bias for linear in linears]
        self.bias: Tensor | None = None
        if any(bias is not None for bias in biases):
            parts = [
                weight.new_zeros(size, dtype=self.weight.dtype) if bias is None else bias
                for bias, size in zip(biases, self.sizes, strict=True)
            ]
            self.bias = torch.cat(parts).detach().to(self.weight.dtype)
        for linear in linears:
            linear.weight = without_numbers(linear.weight)

    def __call__(self, x: Tensor) -> Tensor:
        """[num_tokens, in_features] to [num_tokens, sum of the linears' out_features]."""
        return self.weight(x, self.bias)


def without_numbers(weight: Tensor) -> nn.Parameter:
    """What is left of a weight that was packed: its shape and dtype."""
    return nn.Parameter(torch.empty_like(weight, device="meta"), requires_grad=False)


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN has a packed form for it on this machine."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


ONEDNN = Packing(can_pack, PackedWeight)
