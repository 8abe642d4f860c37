"""Memory for weights that every step reads from end to end, in large pages where the system has them.

A processor fetches ahead within a page only, and looks up where each lies: of pages of 2 MiB it reads nearly twice
as many bytes a second as of 4 KiB.
"""

import contextlib
import math
import mmap
from collections.abc import Sequence

import torch
from torch import Tensor

_PAGE = 2**21
_MAPPING = 2**26  # what is not touched takes no memory
_LINE = 64


class LargePages:
    """Tensors one behind the other in few mappings. A mapping is given back when the last tensor in it is gone."""

    def __init__(self) -> None:
        self._mapping: mmap.mmap | None = None
        self._used = self._end = 0

    def empty(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """A tensor of zeros, from a cache line's border on."""
        size = math.prod(shape) * dtype.itemsize
        if self._mapping is None or self._used + size > self._end:
            self._map(max(size, _MAPPING))
        assert self._mapping is not None
        whole = torch.frombuffer(self._mapping, dtype=torch.uint8, count=size, offset=self._used)
        self._used += -(-size // _LINE) * _LINE
        return whole.view(dtype).view(shape)

    def _map(self, size: int) -> None:
        self._mapping = mmap.mmap(-1, size + _PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with contextlib.suppress(OSError):  # a system that was built without them
                self._mapping.madvise(mmap.MADV_HUGEPAGE)
        self._used = -torch.frombuffer(self._mapping, dtype=torch.uint8).data_ptr() % _PAGE
        self._end = self._used + size
