"""The kernels of encoders against the plain bodies, on shapes drawn at random."""

from itertools import accumulate

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model.kernels import can_decode
from model.kernels.encoding import packed_attention
from model.layers.attention_ops import reference_attention
from model.layers.norms import LayerNorm, add_norm, norm_of_sum

pytestmark = pytest.mark.skipif(
    not can_decode(torch.device("cpu"), torch.float32), reason="the package was built without a C++ compiler"
)
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 0.02}
"""Of numbers around one. In bfloat16 weights are rounded before values are summed by them."""


def texts_of(lengths: list[int]) -> tuple[Tensor, Tensor, int]:
    """Starts, lengths and the longest of texts that lie end to end."""
    return torch.tensor([0, *accumulate(lengths)][:-1]), torch.tensor(lengths), max(lengths)


def each_by_itself(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: list[int],
    scale: float,
    bias: Tensor | None,
    window: int,
) -> Tensor:
    """In float64, a text after the other."""
    longest, outs = max(lengths), []
    q, k, v = (torch.split(x.double(), lengths) for x in (query, key, value))
    for i, length in enumerate(lengths):
        places = torch.arange(length)
        behind = places - places[:, None]  # [t, k]
        mask = (behind.abs() < window)[None, None] if window else None
        own = None if bias is None else bias.double()[None, :, behind + longest - 1]
        outs.append(reference_attention(q[i][None], k[i][None], v[i][None], mask, scale, own)[0])
    return torch.cat(outs)


@settings(max_examples=80, deadline=None)
@given(data=st.data())
def test_packed_attention_equals_the_reference(data: st.DataObject) -> None:
    draw = data.draw
    lengths = draw(
        st.lists(st.sampled_from([1, 2, 4, 5, 8, 9, 15, 16, 17, 33, 70, 200]), min_size=1, max_size=6)
    )
    kv, shared = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    d = draw(st.sampled_from([2, 7, 16, 24, 32, 64, 80, 128]))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))
    window, level = draw(st.sampled_from([0, 0, 1, 3, 40])), draw(st.integers(0, 1))
    torch.manual_seed(draw(st.integers(0, 2**20)))
    n, h = sum(lengths), kv * shared
    fused = torch.randn(n, h + 2 * kv, d).to(dtype)
    query, key, value = fused.split_with_sizes((h, kv, kv), dim=1)
    if draw(st.booleans()):
        key = key.contiguous()
    bias = torch.randn(h, 2 * max(lengths) - 1).to(dtype) if draw(st.booleans()) else None
    texts = texts_of(lengths)
    out = packed_attention(query, key, value, *texts, d**-0.5, bias, window, level)
    expected = each_by_itself(query, key, value, lengths, d**-0.5, bias, window)
    tolerance = TOLERANCES[dtype]
    torch.testing.assert_close(out.double(), expected, atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("level", [0, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_text_has_the_same_bits_in_any_company(dtype: torch.dtype, level: int) -> None:
    lengths, h, d = [40, 3, 77, 19, 300, 8], 4, 32
    torch.manual_seed(0)
    query, key, value = torch.randn(3, sum(lengths), h, d).to(dtype).unbind()
    together = torch.split(packed_attention(query, key, value, *texts_of(lengths), 0.2, level=level), lengths)
    q, k, v = (torch.split(x, lengths) for x in (query, key, value))
    for i, own in enumerate(together):
        alone = packed_attention(q[i], k[i], v[i], *texts_of([len(own)]), 0.2, level=level)
        assert torch.equal(alone, own)


@pytest.mark.parametrize("size", [1, 16, 100, 384])
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_a_norm_is_the_plain_one_also_of_a_sum(dtype: torch.dtype, has_bias: bool, size: int) -> None:
    torch.manual_seed(size)
    norm = LayerNorm(size, eps=1e-5, bias=has_bias)
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    norm.to(dtype)
    plain = torch.nn.LayerNorm(size, eps=1e-5, bias=has_bias).double()
    plain.load_state_dict(norm.state_dict())
    x, update = (torch.randn(2, 7, size) * 3 + 1).to(dtype).unbind()
    total, normed = add_norm(norm, x, update)
    assert torch.equal(total, x + update)
    assert torch.equal(norm_of_sum(norm, x, update), normed)
    tolerance = {torch.float32: 1e-5, torch.bfloat16: 0.01}[dtype]
    for got, of in ((normed, total), (norm(x), x), (norm(x.T.contiguous().T), x)):
        torch.testing.assert_close(got.double(), plain(of.double()), atol=tolerance, rtol=tolerance)
