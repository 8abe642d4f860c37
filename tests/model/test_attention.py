"""Fast bodies of attention against the one that is written out, and packed batches against padded ones."""

import pytest
import torch

from model.layers.attention_ops import dense_attention, reference_attention


@pytest.mark.parametrize("num_kv_heads", [6, 3, 1])
@pytest.mark.parametrize("masked", ["no", "bool", "bias"])
@pytest.mark.parametrize("num_queries", [1, 5])
def test_dense_equals_reference(num_kv_heads: int, masked: str, num_queries: int) -> None:
    torch.manual_seed(0)
    query = torch.randn(2, num_queries, 6, 8, dtype=torch.float64)
    key, value = torch.randn(2, 2, 7, num_kv_heads, 8, dtype=torch.float64)
    mask = bias = None
    if masked != "no":
        mask = torch.rand(2, 1, num_queries, 7) > 0.4
        mask[..., 0] = True
    if masked == "bias":
        bias = torch.randn(2, 6, num_queries, 7, dtype=torch.float64)
    expected = reference_attention(query, key, value, mask, 0.3, bias)
    given = mask if bias is None or mask is None else bias.masked_fill(~mask, float("-inf"))
    torch.testing.assert_close(dense_attention(query, key, value, given, 0.3), expected)


def test_a_query_that_may_look_nowhere_gives_zeros_in_the_reference() -> None:
    query = key = value = torch.ones(1, 1, 1, 2)
    out = reference_attention(query, key, value, torch.zeros(1, 1, 1, 1, dtype=torch.bool), 1.0)
    assert out.tolist() == [[[[0.0, 0.0]]]]
