"""Normalisation: LayerNorm (Ba et al. 2016) and RMSNorm (Zhang and Sennrich 2019)."""

from torch import nn

from model.config import TransformerConfig


def build_norm(config: TransformerConfig) -> nn.Module:
    """A norm over the last, `hidden_size` wide, dimension."""
    if config.norm == "layernorm":
        return nn.LayerNorm(config.hidden_size, eps=config.norm_eps)
    return nn.RMSNorm(config.hidden_size, eps=config.norm_eps)
