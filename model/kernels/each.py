"""The kernels for functions of each number by itself; a caller asks `model.kernels.can_run` first."""

from collections.abc import Callable

import torch
from torch import Tensor

from model.kernels import FEW_ELEMENTS, _num_threads, library


def gelu(x: Tensor) -> Tensor:
    """gelu of each number of x [..., width] bfloat16."""
    return _each(library().gelu, x)


def silu(x: Tensor) -> Tensor:
    """silu of each number of x [..., width]."""
    return _each(library().silu, x)


def _each(kernel: Callable[..., object], x: Tensor) -> Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    n, width, threads = x.numel() // x.shape[-1], x.shape[-1], _num_threads(x.numel(), FEW_ELEMENTS)
    kernel(x.data_ptr(), out.data_ptr(), n, width, x.dtype is torch.bfloat16, threads)
    return out
