"""Attention of several queries of a sequence at once, over a paged cache on a CPU, against the plain body."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engine.grouping import cut_tiles
from model.kernels.paged import reference_attend
from model.kernels.tiles import rows_a_tile, tile_attention
from tests.model.test_kernels import needs_kernel


@needs_kernel
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_tiles_give_what_the_reference_gives(data: st.DataObject) -> None:
    draw = data.draw
    kv, shared = draw(st.integers(1, 3)), draw(st.sampled_from([1, 2, 3, 7]))
    d, block = draw(st.sampled_from([2, 10, 32, 64, 80, 128])), draw(st.integers(1, 20))
    new = draw(st.lists(st.one_of(st.just(1), st.integers(1, 40)), min_size=1, max_size=4))
    before = [draw(st.integers(0, 70)) for _ in new]
    dtype, level = draw(st.sampled_from([torch.float32, torch.bfloat16])), draw(st.integers(0, 1))
    window = draw(st.sampled_from([0, 0, 1, 7, 40]))
    torch.manual_seed(draw(st.integers(0, 2**20)))
    most = -(-max(b + n for b, n in zip(before, new, strict=True)) // block)
    pages = torch.randn(len(new) * most, 3, block, kv, 2 * d).to(dtype)  # three layers in a page
    cache = pages.transpose(0, 1)[1]
    owners = torch.tensor([i for i, n in enumerate(new) for _ in range(n)])
    tables = torch.randperm(len(new) * most).view(len(new), most)[owners]
    num_keys = torch.tensor([b + i + 1 for b, n in zip(before, new, strict=True) for i in range(n)])
    fused = torch.randn(len(owners), kv * shared + 2, d).to(dtype)  # rows that hold more than the queries
    query, scale = fused[:, : kv * shared], d**-0.5
    tiles = torch.tensor(cut_tiles(new, draw(st.sampled_from([1, 5, 18]))))
    got = tile_attention(query, cache, tables, num_keys, tiles, scale, window, level)
    wanted = reference_attend(query.float(), cache.float(), tables, num_keys, scale, window=window)
    tolerance = 1e-5 if dtype == torch.float32 else 0.03
    torch.testing.assert_close(got.float(), wanted, atol=tolerance, rtol=tolerance)


@needs_kernel
@pytest.mark.parametrize("window", [0, 30])
@pytest.mark.parametrize(("dtype", "level"), [(torch.bfloat16, 0), (torch.bfloat16, 1), (torch.float32, 0)])
def test_a_row_has_the_same_bits_in_tiles_of_any_size(dtype: torch.dtype, level: int, window: int) -> None:
    torch.manual_seed(0)
    n, heads = 60, 32
    cache = torch.randn(20, 16, 1, 128).to(dtype)
    query = torch.randn(n, heads, 64).to(dtype)
    tables, num_keys = torch.randperm(20).expand(n, -1).contiguous(), torch.arange(200, 200 + n)
    found = [
        tile_attention(
            query, cache, tables, num_keys, torch.tensor(cut_tiles([n], rows)), 0.125, window, level
        )
        for rows in (n, 7, 1)
    ]
    assert all(torch.equal(one, found[0]) for one in found)


def test_tiles_hold_few_rows_where_many_heads_share_keys() -> None:
    assert rows_a_tile(14, 2) == 18
    assert rows_a_tile(8, 8) == 128
    assert rows_a_tile(300, 1) == 1
