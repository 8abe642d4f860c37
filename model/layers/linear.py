"""A linear projection to which low-rank adapters can be attached, several at a time, and its packed form."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

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

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features]."""
        down = functional.linear(self.dropout(x), self.down)
        return functional.linear(down, self.up) * self.scale


class WholeLayer(nn.Module):
    """What an adapter that brings a layer whole computes in its place."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = None if bias is None else nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        """[..., in_features] to [..., out_features]."""
        return functional.linear(x, self.weight, self.bias)


class PackedProduct:
    """The weights of linears that read the same rows, laid out for oneDNN: one product for all of them.

    On a CPU this is what makes the few rows of a decode step cheap: plain float32 products of 16 rows reach
    a third of what packed ones do. `functional.linear` is the slow twin.
    """

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        """Takes the weights over: what is left in each linear keeps shape and dtype, and nothing to read."""
        self.sizes = [linear.out_features for linear in linears]
        weights: list[Tensor] = [linear.weight for linear in linears]
        weight = torch.cat(weights) if len(weights) > 1 else weights[0]
        biases = [linear.bias for linear in linears]
        self._bias: Tensor | None = None
        if any(bias is not None for bias in biases):
            parts: list[Tensor] = [
                weight.new_zeros(size) if bias is None else bias
                for bias, size in zip(biases, self.sizes, strict=True)
            ]
            self._bias = torch.cat(parts).detach()
        self._weight = pack_weight(weight)
        # oneDNN takes longer for one to three rows of float32 than for four.
        self._min_rows = 4 if weight.dtype == torch.float32 else 1
        for linear in linears:
            linear.weight = nn.Parameter(torch.empty_like(linear.weight, device="meta"), requires_grad=False)

    def __call__(self, x: Tensor) -> Tensor:
        """[num_tokens, in_features] to [num_tokens, sum of the linears' out_features]."""
        return packed_linear(x, self._weight, self._bias, self._min_rows)

    def weight(self) -> Tensor:
        """A plain copy of what was taken over: [sum of the linears' out_features, in_features]."""
        return self._weight.to_dense()


def can_pack(weight: Tensor) -> bool:
    """Whether oneDNN has a packed form for it on this machine."""
    if weight.device.type != "cpu" or not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    if weight.dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return weight.dtype == torch.float32


def pack_weight(weight: Tensor) -> Tensor:
    """[out_features, in_features] as an opaque tensor that only `packed_linear` reads."""
    return torch.ops.mkldnn._reorder_linear_weight(weight.detach().contiguous(), 16)


def packed_linear(x: Tensor, packed: Tensor, bias: Tensor | None, min_rows: int = 1) -> Tensor:
    """`functional.linear` of [n, in_features] with a packed weight, computed over at least `min_rows` rows."""
    num_rows = x.shape[0]
    if num_rows < min_rows:
        x = functional.pad(x, (0, 0, 0, min_rows - num_rows))
    y: Tensor = torch.ops.mkldnn._linear_pointwise.default(x, packed, bias, "none", [], "")
    return y[:num_rows] if num_rows < min_rows else y


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

    def plain_weight(self) -> Tensor:
        """[out_features, in_features], a copy where the layer is packed by itself."""
        return self.weight if self._packed is None else self._packed.weight()

    def pack(self) -> None:
        """Gives the weight to oneDNN for serving; nothing where it cannot take it."""
        if can_pack(self.weight):
            self._packed = PackedProduct([self])


class Together:
    """Linears that read the same rows. One product where they are packed, one each where they are not."""

    def __init__(self, *linears: Linear) -> None:
        self._linears = linears
        self._packed: PackedProduct | None = None

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

    def pack(self) -> None:
        """Gives the weights to oneDNN for serving; nothing where it cannot take them."""
        if all(can_pack(linear.weight) for linear in self._linears):
            self._packed = PackedProduct(self._linears)
