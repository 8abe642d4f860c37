"""The likeliest of many: by buckets where rows are wide, as torch finds them."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engine import logprobs
from app.engine.logprobs import largest


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 3000),
    counts=st.lists(st.sampled_from([0, 1, 2, 5, 8, 20]), min_size=1, max_size=6),
    seed=st.integers(0, 2**20),
    hidden=st.floats(0.0, 1.0),
)
def test_they_are_what_sorting_finds(size: int, counts: Sequence[int], seed: int, hidden: float) -> None:
    """Some of the numbers are minus infinity, as what may not be said is."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randperm(len(counts) * size, generator=generator).double().view(len(counts), size)
    values[torch.rand(values.shape, generator=generator) < hidden] = -torch.inf
    for row, count, found in zip(values, counts, largest(values, counts), strict=True):
        wanted = row.sort(descending=True).values[:count].tolist()
        assert [value for _, value in found] == wanted
        places = [place for place, _ in found]
        assert row[places].tolist() == wanted
        assert len(set(places)) == len(places)


def test_a_wide_row_is_not_sorted_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    widths = []
    topk = torch.Tensor.topk

    def noted(self: torch.Tensor, count: int, dim: int = -1) -> object:
        widths.append(self.shape[-1])
        return topk(self, count, dim=dim)

    monkeypatch.setattr(torch.Tensor, "topk", noted)
    values = torch.arange(58_101.0).flip(0).expand(2, -1)
    assert largest(values, [8, 8])[1] == [(place, 58_100.0 - place) for place in range(8)]
    assert max(widths) <= 58_101 // logprobs._BUCKET
