"""The rules against the logits processors of `transformers`, and through the sampler that applies them."""

import random
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers.generation import logits_process as theirs

from app.engine.rules import make_rules
from app.engine.sampler import SampleRow, sample
from app.engine.sampling_params import SamplingParams
from app.engine.token_counts import make_counts
from tests.engine.test_sampler import some_logits

SIZE = 8
EOS = (0, 5)
TOKENS = st.integers(0, SIZE - 1)
WORDS = st.lists(st.lists(TOKENS, min_size=2, max_size=4).map(tuple), max_size=6).map(tuple)


def ruled(
    tokens: Sequence[int], num_prompt_tokens: int, eos: tuple[int, ...] = EOS, **params: Any
) -> SampleRow:
    values = SamplingParams(**params)
    return SampleRow(
        params=values,
        index=0,
        token_ids=tokens,
        num_prompt_tokens=num_prompt_tokens,
        eos_token_ids=eos,
        rules=make_rules(values, values.max_tokens),
        counts=make_counts(values, num_prompt_tokens),
    )


def processed(row: SampleRow, logits: torch.Tensor) -> torch.Tensor:
    """What theirs make of a row's logits [V], in the order in which `generate` has them."""
    params = row.params
    total = row.num_prompt_tokens + params.max_tokens
    chain: list[Any] = []
    if params.repetition_penalty != 1.0:
        chain.append(theirs.RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    if params.no_repeat_ngram_size:
        chain.append(theirs.NoRepeatNGramLogitsProcessor(params.no_repeat_ngram_size))
    if params.bad_words:
        words = [list(word) for word in params.bad_words]
        chain.append(theirs.NoBadWordsLogitsProcessor(words, list(row.eos_token_ids)))
    if params.min_tokens:
        least = row.num_prompt_tokens + params.min_tokens
        chain.append(theirs.MinLengthLogitsProcessor(least, list(row.eos_token_ids)))
    if params.forced_eos_tokens:
        chain.append(theirs.ForcedEOSTokenLogitsProcessor(total, list(params.forced_eos_tokens)))
    scores = logits[None].clone()
    for processor in chain:
        scores = processor(torch.tensor([list(row.token_ids)]), scores)
    return scores[0]


def forbidden(row: SampleRow) -> set[int]:
    scores = processed(row, torch.zeros(SIZE))
    return {token_id for token_id in range(SIZE) if scores[token_id] == -torch.inf}


@given(st.lists(TOKENS, min_size=1, max_size=40), st.integers(0, 6), WORDS, st.integers(1, 39))
def test_what_is_banned_is_what_theirs_ban_however_the_list_grew(
    tokens: list[int], ngram_size: int, words: tuple[tuple[int, ...], ...], first: int
) -> None:
    params = SamplingParams(no_repeat_ngram_size=ngram_size, bad_words=words)
    rules = make_rules(params, params.max_tokens)
    assert (rules is None) == (not ngram_size and not words)
    for count in range(min(first, len(tokens)), len(tokens) + 1):
        row = ruled(tokens[:count], 1, no_repeat_ngram_size=ngram_size, bad_words=words)
        wanted = forbidden(row)
        assert set(rules.banned(tokens[:count]) if rules is not None else ()) == wanted
        assert set(row.rules.banned(row.token_ids) if row.rules is not None else ()) == wanted, "anew"


@given(st.integers(0, 2**32))
def test_rows_of_any_mixture_get_the_tokens_that_theirs_leave_best(seed: int) -> None:
    source = random.Random(seed)
    rows = []
    for _ in range(source.randint(1, 12)):
        prompt = [source.randrange(SIZE) for _ in range(source.randint(1, 10))]
        output = [source.randrange(SIZE) for _ in range(source.randint(0, 12))]
        most = len(output) + source.randint(1, 3)
        params: dict[str, Any] = {
            "max_tokens": most,
            "min_tokens": source.choice([0, 0, most]),
            "no_repeat_ngram_size": source.choice([0, 0, 2, 3]),
            "bad_words": source.choice([(), ((1, 2), (3, 4, 5), (6, 0), (7, 7))]),
            "forced_eos_tokens": source.choice([(), (5,), (5, 0)]),
            "repetition_penalty": source.choice([1.0, 1.5]),
        }
        rows.append(ruled([*prompt, *output], len(prompt), **params))
    logits = some_logits(len(rows), SIZE, seed)
    before = logits.clone()
    wanted = [int(processed(row, logits[i]).argmax()) for i, row in enumerate(rows)]
    assert sample(logits, rows).token_ids == wanted
    assert torch.equal(logits, before)


def test_a_draw_keeps_the_rules_and_a_forced_end_is_certain() -> None:
    draws = 300
    logits = torch.zeros(2 * draws, SIZE)
    rows = []
    for seed in range(draws):
        params: dict[str, Any] = {"temperature": 1.0, "seed": seed, "top_p": 0.9, "max_tokens": 3}
        rows.append(ruled([1, 2, 3, 1, 2], 3, no_repeat_ngram_size=3, bad_words=((2, 6),), **params))
        rows.append(ruled([1, 2, 3, 1, 2], 3, forced_eos_tokens=EOS, min_tokens=3, **params))
    tokens = sample(logits, rows).token_ids
    assert set(tokens[0::2]) == set(range(SIZE)) - {3, 6}
    assert set(tokens[1::2]) == set(EOS), "the last place is the end's, whatever the minimum is"


def test_who_ignores_ends_is_not_forced_to_one() -> None:
    logits = some_logits(1, SIZE)
    logits[0, list(EOS)] = -100.0
    row = ruled([1], 1, max_tokens=1, forced_eos_tokens=EOS, ignore_eos=True)
    assert sample(logits, [row]).token_ids == [int(logits.argmax())]


@pytest.mark.parametrize("params", [{}, {"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.5, "top_k": 3}])
def test_where_everything_is_forbidden_token_0_comes_and_others_are_spared(params: dict[str, Any]) -> None:
    logits = some_logits(2, SIZE)
    full = ruled(range(SIZE), 1, no_repeat_ngram_size=1, **params)
    free = ruled([4], 1, no_repeat_ngram_size=1, **params)
    alone = sample(logits[1:], [free]).token_ids
    assert sample(logits, [full, free]).token_ids == [0, *alone]


def test_reading_on_costs_the_same_however_long_the_list_is() -> None:
    class Counted(list[int]):
        num_read = 0

        def __getitem__(self, key: Any) -> Any:
            part = super().__getitem__(key)
            self.num_read += len(part) if isinstance(key, slice) else 1
            return part

    params = SamplingParams(no_repeat_ngram_size=4, bad_words=((1, 2, 3), (2, 2)))
    rules = make_rules(params, params.max_tokens)
    assert rules is not None
    tokens = Counted(random.Random(0).choices(range(50), k=5000))
    rules.banned(tokens)
    for token_id in range(50):
        tokens.append(token_id)
        tokens.num_read = 0
        rules.banned(tokens)
        assert tokens.num_read < 20
