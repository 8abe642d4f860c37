"""A linear projection to which low-rank adapters can be attached, several at a time."""

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


class Linear(nn.Linear):
    """`nn.Linear` whose rows may each belong to an adapter. Its weights are drawn by whoever builds the model."""

    def reset_parameters(self) -> None:
        """Nothing: drawing numbers here would only be overwritten, and on the meta device costs seconds."""

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.adapters = nn.ModuleDict()

    def forward(self, x: Tensor, adapter_spans: AdapterSpans = ()) -> Tensor:
        """[num_tokens, in_features] to [num_tokens, out_features]; rows outside all spans are plain."""
        y = functional.linear(x, self.weight, self.bias)
        if not adapter_spans or not self.adapters:
            return y
        for name, start, stop in adapter_spans:
            if name not in self.adapters:
                continue
            if stop - start == x.shape[0]:
                return y + self.adapters[name](x)
            y[start:stop] += self.adapters[name](x[start:stop])
        return y
