"""Constrained rows of the logits against a slow twin that asks for each token alone."""

import random
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from app.engine.allowed import forbid_others
from app.engine.constraint import Bits
from app.engine.sampler import NO_TOKEN, SampleRow, sample
from app.engine.sampling_params import SamplingParams


def bits_of(tokens: set[int], num_words: int) -> Bits:
    bits: Bits = np.zeros(num_words, dtype=np.uint32)
    for token_id in tokens:
        bits[token_id // 32] |= np.uint32(1 << token_id % 32)
    return bits


def row(tokens: set[int] | None, vocab_size: int, seed: int = 0, **params: Any) -> SampleRow:
    return SampleRow(
        params=SamplingParams(seed=seed, **params),
        index=0,
        token_ids=[1],
        num_prompt_tokens=1,
        eos_token_ids=(0,),
        allowed=None if tokens is None else bits_of(tokens, vocab_size // 32 + 1),
    )


@pytest.mark.parametrize("vocab_size", [31, 32, 33, 200, 256])
def test_only_bits_that_are_set_stay(vocab_size: int) -> None:
    draw = random.Random(vocab_size)
    wanted = {i: set(draw.sample(range(vocab_size), draw.randint(0, vocab_size))) for i in (0, 2, 3)}
    logits = torch.randn(5, vocab_size, generator=torch.Generator().manual_seed(1))
    changed = logits.clone()
    # a bit beyond the logits, as the end of a text has, is nobody's
    forbid_others(
        changed, [(i, bits_of(tokens | {vocab_size}, vocab_size // 32 + 1)) for i, tokens in wanted.items()]
    )
    for i in range(5):
        for token_id in range(vocab_size):
            is_allowed = i not in wanted or token_id in wanted[i]
            expected = logits[i, token_id] if is_allowed else -torch.inf
            assert changed[i, token_id] == expected


def test_constrained_rows_draw_from_what_is_left_and_free_rows_as_ever() -> None:
    vocab_size = 100
    logits = torch.randn(1, vocab_size, generator=torch.Generator().manual_seed(4)).expand(600, -1)
    tokens = {3, 40, 41, 99}
    rows = [
        row(tokens if i % 2 else None, vocab_size, seed=i, temperature=1.0, top_p=0.9 if i % 3 else 1.0)
        for i in range(600)
    ]
    drawn = sample(logits, rows).token_ids
    assert set(drawn[1::2]) == tokens
    assert drawn[::2] == sample(logits[::2], rows[::2]).token_ids
    shares = logits[0, sorted(tokens)].softmax(-1)
    whole = [token_id for i, token_id in enumerate(drawn) if i % 2 and not i % 3]
    for token_id, share in zip(sorted(tokens), shares.tolist(), strict=True):
        assert whole.count(token_id) / len(whole) == pytest.approx(share, abs=0.12)


def test_truncation_and_bias_come_before_and_after_as_they_should() -> None:
    logits = torch.tensor([[9.0, 5.0, 4.0, 3.0]]).repeat(4, 1)
    rows = [
        row({2, 3}, 4),
        row({2, 3}, 4, temperature=1.0, top_k=1),
        row({2, 3}, 4, logit_bias={3: 50.0}),
        row({2, 3}, 4, suppress_token_ids=(2,)),
    ]
    assert sample(logits, rows).token_ids == [2, 2, 3, 3]


def test_log_probabilities_are_those_of_the_unchanged_logits() -> None:
    logits = torch.randn(2, 50, generator=torch.Generator().manual_seed(2))
    bound = row({7}, 50, logprobs=3)
    samples = sample(logits, [bound, replace(bound, allowed=None)])
    assert samples.token_ids == [7, int(logits[1].argmax())]
    expected = logits[0].log_softmax(-1)
    found = samples.logprobs[0]
    assert found is not None
    assert found.logprob == pytest.approx(float(expected[7]))
    assert [token_id for token_id, _ in found.top] == expected.topk(3).indices.tolist()


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_that_allows_nothing_has_no_token(temperature: float) -> None:
    logits = torch.randn(3, 40, generator=torch.Generator().manual_seed(3))
    rows = [
        row({5}, 40, temperature=temperature, suppress_token_ids=(5,), logprobs=1, top_p=0.5),
        row(None, 40, temperature=temperature, logprobs=1),
        row(set(), 40, temperature=temperature),
    ]
    samples = sample(logits, rows)
    assert [samples.token_ids[0], samples.token_ids[2]] == [NO_TOKEN, NO_TOKEN]
    assert samples.logprobs[0] is None
    alone = sample(logits[1:2], rows[1:2])
    assert (samples.token_ids[1], samples.logprobs[1]) == (alone.token_ids[0], alone.logprobs[0])
    assert torch.isfinite(logits).all(), "what was given stays as it is"
