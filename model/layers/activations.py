"""The non-linear functions of feed-forward networks and heads, by their published names."""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from model import kernels
from model.config import CheckpointError
from model.kernels import each

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_new": partial(functional.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(functional.gelu, approximate="tanh"),
    "relu": functional.relu,
    "silu": functional.silu,
    "tanh": torch.tanh,
}

_UNSHARED = 2**15
"""Numbers up to which torch computes on one thread."""
_VECTORS = 64
"""Numbers that torch computes at once at most."""


def find_activation(name: str) -> Callable[[Tensor], Tensor]:
    """By its published name; CheckpointError for one that we do not have."""
    if name not in ACTIVATIONS:
        raise CheckpointError(f"unknown activation {name!r}; known: {', '.join(sorted(ACTIVATIONS))}")
    if name == "gelu":
        return _gelu
    if name == "silu":
        return _silu
    function = ACTIVATIONS[name]
    return function if name == "relu" else partial(each_row_alike, function)


def _gelu(x: Tensor) -> Tensor:
    """What is rounded to bfloat16 anyway, a kernel of ours computes in half of the time."""
    if x.dtype is torch.bfloat16 and kernels.can_run(x):
        return each.gelu(x)
    return each_row_alike(functional.gelu, x)


def _silu(x: Tensor) -> Tensor:
    """A kernel of ours needs no shares put together again."""
    if kernels.can_run(x):
        return each.silu(x)
    return each_row_alike(functional.silu, x)


def each_row_alike(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function` of each number of x [..., width]; on a CPU the same bits for a row wherever it stands.

    Torch computes the last few numbers of a thread's share one by one, and rounds them otherwise than the vectors
    before them. So shares are whole rows here, and rows whole vectors. Training has no use for it.
    """
    if not x.is_cpu or torch.is_grad_enabled():
        return function(x)
    width = x.shape[-1]
    rows = x.reshape(-1, width)
    if width % _VECTORS:
        rows = functional.pad(rows, (0, -width % _VECTORS))
    if rows.numel() <= _UNSHARED:
        y = function(rows)
    else:
        y = torch.cat([function(part) for part in torch.split(rows, max(1, _UNSHARED // rows.shape[1]))])
    return y[:, :width].reshape(x.shape)
