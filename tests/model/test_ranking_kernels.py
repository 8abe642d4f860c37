"""The kernels over logits against torch's own, on rows drawn at random."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model import kernels
from model.kernels import ranking

pytestmark = pytest.mark.skipif(
    not kernels.can_decode(torch.device("cpu"), torch.float32),
    reason="the package was built without a C++ compiler",
)
SIZES = st.one_of(st.integers(1, 200), st.sampled_from([511, 512, 513, 3000, 58_101]))


def log_softmax(logits: Tensor) -> Tensor:
    out = logits.clone()
    ranking.log_softmax_(out)
    return out


@settings(max_examples=60, deadline=None)
@given(data=st.data())
@torch.inference_mode()
def test_log_probabilities_are_torchs(data: st.DataObject) -> None:
    n, size = data.draw(st.integers(1, 5)), data.draw(SIZES)
    torch.manual_seed(data.draw(st.integers(0, 2**20)))
    logits = torch.randn(n, size) * data.draw(st.sampled_from([0.1, 3.0, 100.0]))
    logits[:, 1::3] = data.draw(st.sampled_from([0.0, -torch.inf]))
    assert ranking.can_rank(logits)
    wanted = logits.double().log_softmax(1).float()
    torch.testing.assert_close(log_softmax(logits), wanted, atol=2e-6, rtol=2e-6)


@settings(max_examples=60, deadline=None)
@given(data=st.data())
@torch.inference_mode()
def test_the_largest_are_those_of_a_stable_sort(data: st.DataObject) -> None:
    n, size = data.draw(st.integers(1, 5)), data.draw(SIZES)
    count = data.draw(st.integers(1, min(size, data.draw(st.sampled_from([1, 8, 130])))))
    torch.manual_seed(data.draw(st.integers(0, 2**20)))
    x = torch.randn(n, size)
    if data.draw(st.booleans()):
        x = x.round()  # many equal ones
    if data.draw(st.booleans()):
        x[:, 1:] = -torch.inf
    values, places = ranking.largest(x, count)
    wanted = x.sort(dim=1, descending=True, stable=True)
    assert torch.equal(places, wanted.indices[:, :count])
    assert torch.equal(values, wanted.values[:, :count])


@torch.inference_mode()
def test_what_is_no_number_is_told_and_never_the_largest() -> None:
    x = torch.tensor([[1.0, torch.nan, 3.0], [torch.nan] * 3, [-torch.inf] * 3])
    assert ranking.largest(x, 2)[1].tolist() == [[2, 0], [0, 1], [0, 1]]
    assert log_softmax(x).isnan().all()


@torch.inference_mode()
def test_a_rows_bits_do_not_depend_on_its_place_nor_on_threads() -> None:
    x = torch.randn(40, 5_003)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        together = log_softmax(x)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(together, torch.cat([log_softmax(row[None]) for row in x]))


def test_other_tensors_are_left_to_torch() -> None:
    with torch.inference_mode():
        assert not ranking.can_rank(torch.zeros(2, 3, dtype=torch.bfloat16))
        assert not ranking.can_rank(torch.zeros(3, 2).T)
        assert not ranking.can_rank(torch.zeros(0, 3))
    assert not ranking.can_rank(torch.zeros(2, 3)), "gradients may be asked for"
