"""Attention over a paged cache in Triton: the kernel that reads keys and values where they lie on a GPU.

Nobody imports this but `model.kernels.paged`, which looks first whether Triton is there. With `TRITON_INTERPRET=1` it
computes on a CPU, number by number, for tests.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

_MOST_ROWS = 16
_MOST_PAIRS = 64  # of a row and a query head, in a tile
_MOST_KEYS = 64
_TURN_BYTES = 2**14  # of the keys of a turn, which lie in shared memory with its values, twice each
_LEAST = 16  # rows and columns that a product of tiles must have
_MANY = 4096  # sums of a tile, beyond which it gets more threads


def rows_a_tile(shared: int) -> int:
    """Queries of one sequence that are computed together, since they read the same keys, where `shared` query heads
    read one key-value head."""
    return max(1, min(_MOST_ROWS, _MOST_PAIRS // triton.next_power_of_2(shared)))


def paged_attention(
    query: Tensor,
    cache: Tensor,
    tables: Tensor,
    num_keys: Tensor,
    tiles: Tensor,
    scale: float,
    by_distance: Tensor | None = None,
    window: int = 0,
) -> Tensor:
    """See `model.kernels.paged.attend`."""
    n, h, d = query.shape
    _, block, kv, _ = cache.shape
    shared = h // kv
    query = query if query.stride(2) == 1 else query.contiguous()
    out = torch.empty(n, h, d, dtype=query.dtype, device=query.device)
    rows = 1 if len(tiles) == n else rows_a_tile(shared)
    # of one type, with a bias and without, so that one kernel is compiled
    bias = query.new_empty(1, dtype=torch.float32) if by_distance is None else by_distance.contiguous()
    _attend[(len(tiles), kv)](
        query,
        cache,
        tables,
        num_keys,
        tiles,
        bias,
        out,
        query.stride(0),
        query.stride(1),
        cache.stride(0),
        cache.stride(1),
        cache.stride(2),
        tables.stride(0),
        block,
        scale,
        window,
        0 if by_distance is None else by_distance.shape[1],
        IS_WIDE=not query.is_cuda,  # the interpreter would multiply the bits of bfloat16
        **tile_shape(rows, shared, d, query.itemsize),
        **launch_options(rows, shared, d),
    )
    return out


def tile_shape(rows: int, shared: int, head_dim: int, itemsize: int) -> dict[str, int]:
    """What the kernel is compiled for."""
    width = max(_LEAST, triton.next_power_of_2(head_dim))
    return {
        "SHARED": shared,
        "TILE": max(_LEAST, triton.next_power_of_2(rows * shared)),
        "SIZE": head_dim,
        "WIDTH": width,
        "KEYS": max(_LEAST, min(_MOST_KEYS, _TURN_BYTES // (width * itemsize))),
    }


def launch_options(rows: int, shared: int, head_dim: int) -> dict[str, int]:
    """How the compiler is to go about it."""
    return {"num_warps": 4 if rows * shared * head_dim <= _MANY else 8, "num_stages": 2}


# What differs from step to step and from layer to layer makes no kernel of its own, which would be compiled while
# somebody waits.
@triton.jit(do_not_specialize=["table_row", "block", "window", "num_distances"])
def _attend(
    query,
    cache,
    tables,
    num_keys,
    tiles,
    bias,
    out,
    query_row,
    query_head,
    cache_page,
    cache_position,
    cache_head,
    table_row,
    block,
    scale,
    window,
    num_distances,
    SHARED: tl.constexpr,
    TILE: tl.constexpr,
    SIZE: tl.constexpr,
    WIDTH: tl.constexpr,
    KEYS: tl.constexpr,
    IS_WIDE: tl.constexpr,
):
    """One tile of queries by one key-value head: [TILE] pairs of a row and a query head, by turns of KEYS keys."""
    tile, head = tl.program_id(0), tl.program_id(1)
    first, count = tl.load(tiles + 2 * tile), tl.load(tiles + 2 * tile + 1)
    pairs = tl.arange(0, TILE)
    row = first + pairs // SHARED
    own_head = head * SHARED + pairs % SHARED
    is_row = pairs // SHARED < count
    numbers = tl.arange(0, WIDTH)
    is_number = numbers < SIZE
    queries = tl.load(
        query + row[:, None] * query_row + own_head[:, None] * query_head + numbers[None, :],
        mask=is_row[:, None] & is_number[None, :],
        other=0.0,
    )
    if IS_WIDE:
        queries = queries.to(tl.float32)
    seen = tl.load(num_keys + row, mask=is_row, other=0)
    end = tl.max(seen, 0)
    begin = end * 0
    if window > 0:
        begin = tl.maximum(tl.min(tl.where(is_row, seen, end), 0) - window, 0)
    largest = tl.full([TILE], float("-inf"), tl.float32)
    total = tl.zeros([TILE], tl.float32)
    summed = tl.zeros([TILE, WIDTH], tl.float32)
    for turn in range(begin, end, KEYS):
        place = turn + tl.arange(0, KEYS)
        is_key = place < end
        page = tl.load(tables + first * table_row + place // block, mask=is_key, other=0).to(tl.int64)
        where = cache + page * cache_page + (place % block) * cache_position + head * cache_head
        is_there = is_key[:, None] & is_number[None, :]
        keys = tl.load(where[:, None] + numbers[None, :], mask=is_there, other=0.0)
        values = tl.load(where[:, None] + SIZE + numbers[None, :], mask=is_there, other=0.0)
        if IS_WIDE:
            keys, values = keys.to(tl.float32), values.to(tl.float32)
        scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * scale
        if num_distances > 0:
            distance = tl.minimum(tl.maximum(seen[:, None] - 1 - place[None, :], 0), num_distances - 1)
            scores += tl.load(
                bias + own_head[:, None] * num_distances + distance, mask=is_row[:, None], other=0.0
            )
        is_seen = place[None, :] < seen[:, None]
        if window > 0:
            is_seen = is_seen & (place[None, :] >= seen[:, None] - window)
        scores = tl.where(is_seen, scores, float("-inf"))
        now = tl.maximum(largest, tl.max(scores, 1))
        shift = tl.where(
            now == float("-inf"), 0.0, now
        )  # nothing seen yet: minus infinity less itself is NaN
        weights = tl.exp(scores - shift[:, None])
        fade = tl.exp(largest - shift)
        summed = summed * fade[:, None] + tl.dot(weights.to(values.dtype), values, input_precision="ieee")
        total = total * fade + tl.sum(weights, 1)
        largest = now
    summed = summed / tl.where(total == 0.0, 1.0, total)[:, None]
    places = (
        out
        + row[:, None] * (SHARED * tl.num_programs(1) * SIZE)
        + own_head[:, None] * SIZE
        + numbers[None, :]
    )
    tl.store(places, summed.to(out.dtype.element_ty), mask=is_row[:, None] & is_number[None, :])
