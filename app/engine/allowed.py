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
    rows = [row for row, _ in allowed]
    words = np.stack([bits for _, bits in allowed])  # [R, W]
    others = np.unpackbits(~words.view(np.uint8), axis=-1, bitorder="little")[:, : logits.shape[-1]]
    are_others = torch.from_numpy(others.view(np.bool_)).to(logits.device)  # [R, V]
    logits[rows] = logits[rows].masked_fill(are_others, -torch.inf)


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
