"""Kernels of our own against the plain bodies, on shapes drawn at random."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.kernels import can_decode, decode_attention
from model.layers.attention_ops import reference_attention

CPU = torch.device("cpu")
FLOAT, HALF = torch.float32, torch.bfloat16
DTYPES = [(FLOAT, FLOAT), (FLOAT, HALF), (HALF, HALF)]
"""Of rows, and of the cache beside them."""
needs_kernel = pytest.mark.skipif(
    not can_decode(CPU, torch.float32), reason="the package was built without a C++ compiler"
)


def reference(
    query: Tensor,
    cache: Tensor,
    tables: Tensor,
    num_keys: Tensor,
    scale: float,
    bias: Tensor | None,
    window: int,
) -> Tensor:
    """Gathers all blocks, masks what is past each sequence's end or before its window, and writes it out."""
    keys, values = cache[tables].flatten(1, 2).double().chunk(2, dim=-1)  # [b, k, kv, d]
    places = torch.arange(keys.shape[1])
    mask = places < num_keys[:, None]
    if window:
        mask = mask & (places >= num_keys[:, None] - window)
    wide = None if bias is None else bias.double()
    out = reference_attention(query[:, None].double(), keys, values, mask[:, None, None], scale, wide)
    return out[:, 0]


@needs_kernel
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_decode_attention_equals_the_reference(data: st.DataObject) -> None:
    draw = data.draw
    b, kv, shared = draw(st.integers(1, 5)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    d, block, num_blocks = (
        draw(st.sampled_from([2, 10, 64, 80, 128, 256])),
        draw(st.integers(1, 20)),
        draw(st.integers(1, 6)),
    )
    dtype, kept = draw(st.sampled_from(DTYPES))
    window = draw(st.sampled_from([0, 0, 1, 7]))
    torch.manual_seed(draw(st.integers(0, 2**20)))
    pages = torch.randn(40, 3, block, kv, 2 * d).to(kept)  # three layers in a page
    cache = pages.transpose(0, 1)[1]
    tables = torch.randint(0, 40, (b, num_blocks))
    num_keys = torch.randint(1, block * num_blocks + 1, (b,))
    fused = torch.randn(b, kv * shared + 2, d).to(dtype)  # rows that hold more than the queries
    query = fused[:, : kv * shared]
    bias = None
    if draw(st.booleans()):
        rows, heads = draw(st.sampled_from([1, b])), draw(st.sampled_from([1, kv * shared]))
        bias = torch.randn(rows, heads, 1, block * num_blocks).to(dtype)
        bias[..., 1::5] = float("-inf")
    scale = d**-0.5
    got = decode_attention(query, cache, tables, num_keys, scale, bias, window)
    wanted = reference(query, cache, tables, num_keys, scale, bias, window)
    wanted = wanted.nan_to_num()  # a query that may look nowhere gives zeros
    tolerance = 1e-5 if dtype == torch.float32 else 0.02
    torch.testing.assert_close(got.double(), wanted, atol=tolerance, rtol=tolerance)


@needs_kernel
def test_many_threads_give_what_one_gives() -> None:
    torch.manual_seed(0)
    cache = torch.randn(500, 16, 4, 128)
    tables, num_keys = torch.randint(0, 500, (48, 20)), torch.randint(200, 320, (48,))
    query = torch.randn(48, 8, 64)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = decode_attention(query, cache, tables, num_keys, 0.125)
        torch.set_num_threads(2)
        together = decode_attention(query, cache, tables, num_keys, 0.125)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(alone, together)


@needs_kernel
def test_scores_of_any_size_keep_their_order() -> None:
    query = torch.tensor([[[100.0, 0.0]]])
    cache = torch.tensor([[[[1.0, 0.0, 3.0, 4.0]], [[-1.0, 0.0, 7.0, 9.0]], [[0.999, 0.0, 5.0, 8.0]]]])
    got = decode_attention(query, cache, torch.tensor([[0]]), torch.tensor([3]), 10.0)
    weight = torch.sigmoid(torch.tensor(1.0)).item()
    wanted = [weight * 3 + (1 - weight) * 5, weight * 4 + (1 - weight) * 8]
    assert got.flatten().tolist() == pytest.approx(wanted, abs=1e-3)


def test_only_dtypes_and_devices_that_it_knows_are_taken() -> None:
    assert not can_decode(CPU, torch.float64)
    assert not can_decode(torch.device("meta"), torch.float32)
