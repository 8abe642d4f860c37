"""Counts kept from token to token against a slow twin that counts anew, through growth, forks and mixed batches."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engine.admission import Limits, Served, make_sequence
from app.engine.protocol import GenerateRequest
from app.engine.sampler import SampleRow, adjust
from app.engine.sampling_params import SamplingParams
from app.engine.token_counts import TokenCounts, make_counts
from tests.engine.test_sampler import slow_adjust, some_logits
from tests.tiny import LLAMA

SIZE = 10
TOKENS = st.integers(0, SIZE - 1)
PENALTIES = st.builds(
    SamplingParams,
    repetition_penalty=st.sampled_from([1.0, 1.0, 0.5, 1.3]),
    presence_penalty=st.sampled_from([0.0, 0.0, -1.5, 0.7]),
    frequency_penalty=st.sampled_from([0.0, 0.0, -0.3, 0.9]),
)


@dataclass
class Text:
    """A sequence as the sampler sees it."""

    params: SamplingParams
    token_ids: list[int]
    num_prompt_tokens: int
    counts: TokenCounts | None

    def row(self) -> SampleRow:
        return SampleRow(self.params, 0, self.token_ids, self.num_prompt_tokens, (), counts=self.counts)

    def fork(self) -> "Text":
        counts = None if self.counts is None else self.counts.fork()
        return Text(self.params, list(self.token_ids), self.num_prompt_tokens, counts)


@st.composite
def texts(draw: st.DrawFn) -> Text:
    prompt, params = draw(st.lists(TOKENS, min_size=1, max_size=8)), draw(PENALTIES)
    return Text(params, prompt, len(prompt), make_counts(params, len(prompt)))


@settings(deadline=None)  # torch's first call takes long
@given(
    st.lists(texts(), min_size=1, max_size=5),
    st.lists(st.tuples(st.sampled_from(["say", "say", "fork", "step"]), st.integers(0), TOKENS), max_size=30),
)
def test_penalties_are_those_of_counting_anew(batch: list[Text], events: list[tuple[str, int, int]]) -> None:
    for what, which, token_id in [*events, ("step", 0, 0)]:
        text = batch[which % len(batch)]
        if what == "say":
            text.token_ids.append(token_id)
        elif what == "fork":
            batch.append(text.fork())
        else:
            logits, rows = some_logits(len(batch), SIZE), [text.row() for text in batch]
            slow = torch.tensor([slow_adjust(logits[i].tolist(), row) for i, row in enumerate(rows)])
            torch.testing.assert_close(adjust(logits, rows), slow)


def test_what_is_kept_is_bounded_by_the_distinct_tokens() -> None:
    counts = TokenCounts(0, 3)
    counts.read([7, 5, 7])
    twin = counts.fork()
    counts.read([7, 5, 7, 7, 9] + [5] * 1000)
    assert list(zip(counts.ids, counts.counts, strict=True)) == [(7, 1), (5, 1000), (9, 1)]
    twin.read([7, 5, 7, 2])
    assert Counter(dict(zip(twin.ids, twin.counts, strict=True))) == Counter({7: 0, 5: 0, 2: 1})


@pytest.mark.parametrize(
    ("params", "kept"),
    [({}, None), ({"repetition_penalty": 1.1}, [4, 5]), ({"presence_penalty": 1.0}, [])],
    ids=str,
)
def test_only_a_repetition_penalty_keeps_the_prompt(params: dict[str, Any], kept: list[int] | None) -> None:
    served = Served("m", None, LLAMA, 64)
    request = GenerateRequest(model="m", prompt_ids=[4, 5, 4], params=SamplingParams(**params))
    sequence = make_sequence(request, served, Limits(16, 100, 8), 0.0)
    twin = sequence.fork()
    if sequence.counts is not None and twin.counts is not None:
        assert twin.counts is not sequence.counts
        sequence.counts.read(sequence.token_ids)
    assert (None if sequence.counts is None else list(sequence.counts.ids)) == kept
