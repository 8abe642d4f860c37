"""Normalisation: LayerNorm (Ba et al. 2016) and RMSNorm (Zhang and Sennrich 2019)."""

import torch
from torch import Tensor, nn

from model.config import TransformerConfig


class RMSNorm(nn.Module):
    """Divides by the root mean square, in float32 at least.

    Written out, because torch's own takes several times as long for the few rows of a decode step on a CPU.
    """

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        """[..., size] to the same."""
        precise = x if x.dtype == torch.float64 else x.float()
        scale = torch.rsqrt(precise.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * (precise * scale).to(x.dtype)


def build_norm(config: TransformerConfig, size: int | None = None) -> nn.Module:
    """A norm over the last dimension, `hidden_size` wide unless `size` says otherwise."""
    size = size or config.hidden_size
    if config.norm == "layernorm":
        return nn.LayerNorm(size, eps=config.norm_eps)
    return RMSNorm(size, config.norm_eps)
