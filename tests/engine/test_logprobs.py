"""The likeliest of many: by a kernel and by torch, as sorting finds them."""

from collections.abc import Sequence

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engine.logprobs import largest


@settings(max_examples=60, deadline=None)
@given(
    size=st.integers(1, 3000),
    counts=st.lists(st.sampled_from([0, 1, 2, 5, 8, 20]), min_size=1, max_size=6),
    seed=st.integers(0, 2**20),
    hidden=st.floats(0.0, 1.0),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
def test_they_are_what_sorting_finds(
    size: int, counts: Sequence[int], seed: int, hidden: float, dtype: torch.dtype
) -> None:
    """Some of the numbers are minus infinity, as what may not be said is. A kernel takes float32."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randperm(len(counts) * size, generator=generator).to(dtype).view(len(counts), size)
    values[torch.rand(values.shape, generator=generator) < hidden] = -torch.inf
    with torch.inference_mode():
        of_rows = largest(values, counts)
    for row, count, found in zip(values, counts, of_rows, strict=True):
        wanted = row.sort(descending=True).values[:count].tolist()
        assert [value for _, value in found] == wanted
        places = [place for place, _ in found]
        assert row[places].tolist() == wanted
        assert len(set(places)) == len(places)
