"""Attention over a paged cache on a GPU: whether it can be done here, and the body that it is held against."""

import logging
from importlib.util import find_spec

import torch
from torch import Tensor

from model.layers.attention_ops import reference_attention

_log = logging.getLogger(__name__)

_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_MAX_HEAD_DIM = 256
_TRIED_KEYS = 40
_TRIED_BLOCK = 7


def attend(
    query: Tensor,
    cache: Tensor,
    tables: Tensor,
    num_keys: Tensor,
    tiles: Tensor,
    scale: float,
    by_distance: Tensor | None = None,
    window: int = 0,
) -> Tensor:
    """Queries over the keys and values of their blocks, which are read where they lie.

    query [n, h, d]; one layer's cache [pages, block, kv, 2 * d], each position's keys before its values, of the
    query's dtype; tables [n, blocks] and num_keys [n] int64: each query looks at the first so many positions of its
    blocks, with a `window` over 0 at that many last of them. tiles [m, 2] int64: first row and number of rows, at most
    `rows_a_tile`, of queries that have one table; they hold each row once. by_distance [h, distances] float32 is added
    to scores: its last number to all that are further away. Returns [n, h, d]; a query that sees nothing gives zeros.
    Sums are float32 whatever the dtype.
    """
    from model.kernels.paged_attention import paged_attention

    return paged_attention(query, cache, tables, num_keys, tiles, scale, by_distance, window)


def rows_a_tile(num_heads: int, num_kv_heads: int) -> int:
    """Where `can_attend`."""
    from model.kernels import paged_attention

    return paged_attention.rows_a_tile(num_heads // num_kv_heads)


def reference_attend(
    query: Tensor,
    cache: Tensor,
    tables: Tensor,
    num_keys: Tensor,
    scale: float,
    by_distance: Tensor | None = None,
    window: int = 0,
) -> Tensor:
    """The slow twin of `attend`, which needs no tiles."""
    key, value = cache[tables].flatten(1, 2).chunk(2, dim=-1)  # [n, keys, kv, d]
    places = torch.arange(key.shape[1], device=query.device)
    distance = num_keys[:, None] - 1 - places  # [n, keys]
    mask = distance >= 0
    if window:
        mask &= distance < window
    bias = None
    if by_distance is not None:
        bias = by_distance[:, distance.clamp(0, by_distance.shape[1] - 1)].transpose(0, 1)[:, :, None]
    return reference_attention(query[:, None], key, value, mask[:, None, None], scale, bias)[:, 0]


def can_attend(
    device: torch.device, dtype: torch.dtype, num_heads: int, num_kv_heads: int, head_dim: int
) -> bool:
    """Whether `attend` takes such heads here. It is tried, once for each call: that compiles it, before any request
    waits, and what does not come to the reference's result is not used."""
    if device.type != "cuda":
        return False
    if dtype not in _DTYPES or head_dim > _MAX_HEAD_DIM:
        fault = f"there is no kernel for heads of {head_dim} numbers in {str(dtype).removeprefix('torch.')}"
    elif find_spec("triton") is None:
        fault = "Triton is not installed"
    else:
        try:
            fault = try_out(device, dtype, num_heads, num_kv_heads, head_dim)
        except Exception as error:  # a compiler or a driver that is missing shows in many ways
            fault = f"{type(error).__name__}: {error}"
    if fault:
        _log.warning("attention reads no keys in place, which is slower: %s", fault)
    return not fault


@torch.inference_mode()
def try_out(
    device: torch.device, dtype: torch.dtype, num_heads: int, num_kv_heads: int, head_dim: int
) -> str:
    """What is wrong with `attend` here, "" for nothing: one sequence of several rows, and single rows."""
    draws = torch.Generator().manual_seed(0)

    def drawn(*shape: int) -> Tensor:
        return torch.randn(shape, generator=draws).to(device, dtype)

    num_blocks = -(-_TRIED_KEYS // _TRIED_BLOCK)
    n = rows_a_tile(num_heads, num_kv_heads) + 3
    query, scale = drawn(n, num_heads, head_dim), head_dim**-0.5
    cache = drawn(num_blocks, _TRIED_BLOCK, num_kv_heads, 2 * head_dim)
    tables = torch.arange(num_blocks, device=device).expand(n, -1).contiguous()
    num_keys = torch.arange(_TRIED_KEYS - n, _TRIED_KEYS, device=device)
    wanted = reference_attend(query.float(), cache.float(), tables, num_keys, scale)
    bound = 1e-3 if dtype == torch.float32 else 3e-2
    for tiles in ([[0, n - 3], [n - 3, 3]], [[row, 1] for row in range(n)]):
        got = attend(query, cache, tables, num_keys, torch.tensor(tiles, device=device), scale)
        if not torch.allclose(got.float(), wanted, atol=bound, rtol=bound):
            return "the kernel's results are not the reference's"
    return ""
