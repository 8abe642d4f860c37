"""Who may look at whom, as tensors."""

import torch
from torch import Tensor


def window_mask(mask: Tensor | None, query_positions: Tensor, key_positions: Tensor, window: int) -> Tensor:
    """[b, 1, t, k]: what `mask` allows and stands less than `window` away; and always oneself.

    `mask` [b, 1, t or 1, k], query positions [b, t], key positions [k]; b may be 1. The same for
    both directions: a causal mask has ruled out the keys ahead. Rows of padding stay finite.
    """
    queries = query_positions[:, None, :, None]
    near = (key_positions > queries - window) & (key_positions < queries + window)
    return near if mask is None else (near & mask) | (key_positions == queries)


def additive_mask(mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """0 where a boolean mask allows to look and minus infinity where not; what each call would make of it."""
    if mask is None:
        return None
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, float("-inf"))


def bias_mask(mask: Tensor | None, bias: Tensor, dtype: torch.dtype) -> Tensor:
    """An additive bias that is minus infinity where the boolean mask forbids to look."""
    bias = bias.to(dtype)
    return bias if mask is None else bias.masked_fill(~mask, float("-inf"))
