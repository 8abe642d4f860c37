"""Normalisation: LayerNorm (Ba et al. 2016) and RMSNorm (Zhang and Sennrich 2019)."""

import torch
from torch import Tensor, nn

from model import kernels
from model.config import TransformerConfig
from model.kernels import encoding


class RMSNorm(nn.Module):
    """Divides by the root mean square, in float32 at least.

    Written out, because torch's own takes several times as long for the few rows of a decode step on a CPU.
    The factors are `offset + weight`.
    """

    def __init__(self, size: int, eps: float, offset: float = 0.0) -> None:
        super().__init__()
        self.eps, self.offset = eps, offset
        self.weight = nn.Parameter(torch.full((size,), 1.0 - offset))

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] to the same."""
        if kernels.can_run(x, self.weight):
            return kernels.rms_norm(x, self.weight, self.eps, self.offset)
        precise = x if x.dtype == torch.float64 else x.float()
        scale = torch.rsqrt(precise.square().mean(-1, keepdim=True) + self.eps)
        if self.offset:
            # Before rounding: one plus a small weight would lose it in bfloat16.
            return (precise * scale * (self.offset + self.weight.to(precise.dtype))).to(x.dtype)
        return self.weight * (precise * scale).to(x.dtype)


class LayerNorm(nn.LayerNorm):
    """torch's, by a kernel of ours where it serves."""

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] to the same."""
        if kernels.can_run(x, self.weight):
            return encoding.layer_norm(x, self.weight, self.bias, self.eps)
        return super().forward(x)


def add_norm(norm: nn.Module, x: Tensor, update: Tensor) -> tuple[Tensor, Tensor]:
    """x + update, [..., size] each, and the norm of that sum."""
    if isinstance(norm, RMSNorm) and kernels.can_run(x, update, norm.weight):
        return kernels.add_rms_norm(x, update, norm.weight, norm.eps, norm.offset)
    if isinstance(norm, LayerNorm) and kernels.can_run(x, update, norm.weight):
        return encoding.add_layer_norm(x, update, norm.weight, norm.bias, norm.eps)
    x = x + update
    return x, norm(x)


def norm_of_sum(norm: nn.Module, x: Tensor, update: Tensor) -> Tensor:
    """The second of `add_norm` alone."""
    if isinstance(norm, LayerNorm) and kernels.can_run(x, update, norm.weight):
        return encoding.layer_norm_of_sum(x, update, norm.weight, norm.bias, norm.eps)
    normed: Tensor = norm(x + update)
    return normed


def build_norm(config: TransformerConfig, size: int | None = None) -> nn.Module:
    """A norm over the last dimension, which is `hidden_size` wide where no `size` is given."""
    size = config.hidden_size if size is None else size
    if config.norm == "layernorm":
        return LayerNorm(size, eps=config.norm_eps, bias=config.norm_bias)
    return RMSNorm(size, config.norm_eps, config.norm_offset)
