"""The tokens that constraints allow, applied to logits: the tensors' side of `constraint`."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from app.engine.constraint import Bits

Allowed = Sequence[tuple[int, Bits]]
"""Rows of the logits, and the bits of the tokens that each allows."""


def forbid_others(logits: Tensor, allowed: Allowed) -> None:
    """Changes the rows of `logits` [B, V]; bits beyond V do not matter, and there are V at least."""
    if not allowed:
        return
    words = torch.from_numpy(np.stack([bits for _, bits in allowed]).view(np.int32)).to(
        logits.device
    )  # [R, W]
    places = torch.arange(32, dtype=torch.int32, device=logits.device)
    is_allowed = ((words[:, :, None] >> places) & 1).flatten(1)[:, : logits.shape[-1]].bool()  # [R, V]
    where = torch.tensor([row for row, _ in allowed], device=logits.device)
    logits[where] = logits[where].masked_fill(~is_allowed, -torch.inf)


def take_stuck(logits: Tensor, allowed: Allowed) -> list[int]:
    """The constrained rows of adjusted `logits` in which no token is left; they are made harmless for a draw."""
    if not allowed:
        return []
    rows = [row for row, _ in allowed]
    is_stuck: list[bool] = (logits[rows].amax(dim=-1) == -torch.inf).tolist()
    stuck = [row for row, is_one in zip(rows, is_stuck, strict=True) if is_one]
    if stuck:
        logits[stuck] = 0.0
    return stuck
