"""Attention over a paged cache on a CPU, for several queries of a sequence at once."""

import torch
from torch import Tensor

from model.kernels import FEW_NUMBERS, _num_threads, _with_heads_side_by_side, library

_MOST_PAIRS = 128


def rows_a_tile(num_heads: int, num_kv_heads: int) -> int:
    """So many queries of a sequence that laying out keys and values takes little beside them, and so few that threads
    get like shares."""
    return max(1, _MOST_PAIRS * num_kv_heads // num_heads)


def tile_attention(
    query: Tensor,
    cache: Tensor,
    tables: Tensor,
    num_keys: Tensor,
    tiles: Tensor,
    scale: float,
    window: int = 0,
    level: int = 0,
) -> Tensor:
    """`model.kernels.paged.attend` without a bias, where `model.kernels.can_decode`; tiles may have any number of rows.

    A `level` over 0 leaves out what the best processors have, for tests.
    """
    n, h, d = query.shape
    out = torch.empty(n, h, d, dtype=query.dtype)
    query = _with_heads_side_by_side(query)
    _, block, kv, width = cache.shape
    library().tile_attention(
        query.data_ptr(),
        cache.data_ptr(),
        tables.data_ptr(),
        num_keys.data_ptr(),
        tiles.data_ptr(),
        out.data_ptr(),
        len(tiles),
        h,
        kv,
        d,
        block,
        tables.shape[1],
        query.stride(0),
        cache.stride(0),
        window,
        level,
        scale,
        query.dtype is torch.bfloat16,
        _num_threads(tables.numel() * block * kv * width, FEW_NUMBERS),
    )
    return out
