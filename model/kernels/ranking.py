"""The kernels over rows of logits; a caller asks `can_rank` first, and has torch's own for the rest."""

import torch
from torch import Tensor

from model.kernels import FEW_ELEMENTS, _num_threads, can_run, library


def can_rank(x: Tensor) -> bool:
    """Whether they take it here and now: rows [n, size] float32."""
    return can_run(x) and x.dtype is torch.float32 and x.is_contiguous() and x.dim() == 2 and x.numel() > 0


def log_softmax_(x: Tensor) -> None:
    """Logits [n, size] become log-probabilities. A row has the same bits whatever stands beside it."""
    n, size = x.shape
    library().log_softmax(x.data_ptr(), n, size, False, _num_threads(x.numel(), FEW_ELEMENTS))


def largest(x: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest numbers of each row of x [n, size] and their int64 places, [n, count] both.

    The largest first, and of equal ones the first; NaN counts as minus infinity. `count` is 1 to size.
    """
    n, size = x.shape
    values, places = x.new_empty(n, count), torch.empty(n, count, dtype=torch.int64)
    library().largest_numbers(
        x.data_ptr(),
        values.data_ptr(),
        places.data_ptr(),
        n,
        size,
        count,
        False,
        _num_threads(x.numel(), FEW_ELEMENTS),
    )
    return values, places
