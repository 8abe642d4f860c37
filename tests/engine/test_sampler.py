"""The sampler against exact distributions and against a slow twin that works one token at a time."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch

from app.engine.sampler import SampleRow, Samples, sample
from app.engine.sampling_params import SamplingParams
from app.engine.token_counts import make_counts

EOS = 0


def row(
    seed: int = 0,
    index: int = 0,
    prompt: Sequence[int] = (1,),
    output: Sequence[int] = (),
    **params: Any,
) -> SampleRow:
    settings = SamplingParams(seed=seed, **params)
    return SampleRow(
        params=settings,
        index=index,
        token_ids=[*prompt, *output],
        num_prompt_tokens=len(prompt),
        eos_token_ids=(EOS,),
        counts=make_counts(settings, len(prompt)),
    )


def some_logits(rows: int, vocab_size: int, seed: int = 0, spread: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, vocab_size, generator=torch.Generator().manual_seed(seed)) * spread


def exact_distribution(
    logits: Sequence[float],
    *,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    min_p: float = 0.0,
) -> list[float]:
    """The slow twin of the truncations: sorts, walks, renormalises."""
    best = max(logits)
    weights = [math.exp((value - best) / temperature) for value in logits]
    order = sorted(range(len(logits)), key=lambda i: -weights[i])
    if top_k > 0:
        order = order[:top_k]
    total = sum(weights[i] for i in order)
    kept: list[int] = []
    summed = 0.0
    for i in order:
        if kept and summed >= top_p * total:
            break
        kept.append(i)
        summed += weights[i]
    kept = [i for i in kept if weights[i] >= min_p]
    total = sum(weights[i] for i in kept)
    return [weights[i] / total if i in kept else 0.0 for i in range(len(logits))]


def chi_square(counts: Counter[int], expected: Sequence[float], draws: int) -> tuple[float, int]:
    """The statistic and its degrees of freedom, rare tokens taken together."""
    common = [i for i, p in enumerate(expected) if p * draws >= 5]
    rare = 1.0 - sum(expected[i] for i in common)
    statistic = sum((counts[i] - expected[i] * draws) ** 2 / (expected[i] * draws) for i in common)
    if rare * draws >= 1:
        seen = draws - sum(counts[i] for i in common)
        statistic += (seen - rare * draws) ** 2 / (rare * draws)
    return statistic, len(common)


TRUNCATIONS: list[dict[str, Any]] = [
    {},
    {"temperature": 0.5},
    {"temperature": 1.7},
    {"top_k": 7},
    {"top_k": 1},
    {"top_p": 0.8},
    {"top_p": 0.01},
    {"min_p": 0.05},
    {"top_k": 20, "top_p": 0.7, "min_p": 0.1, "temperature": 1.3},
]


@pytest.mark.parametrize("truncation", TRUNCATIONS, ids=str)
@pytest.mark.parametrize(("vocab_size", "draws"), [(40, 50_000), (700, 4_000)])
@pytest.mark.parametrize("draft", [(), (5, 6, 7)])
def test_draws_follow_the_exact_distribution(
    truncation: dict[str, Any], vocab_size: int, draws: int, draft: tuple[int, ...]
) -> None:
    """Of the next token, and of the one behind a draft."""
    batch = 1000
    params: dict[str, Any] = {"temperature": 1.0, **truncation}
    first = replace(row(seed=11, **params), draft=draft)
    logits = some_logits(1, vocab_size, spread=2.0)
    counts = Counter[int]()
    for start in range(0, draws, batch):
        rows = [replace(first, index=start + i) for i in range(batch)]
        counts.update(sample(logits.expand(batch, -1), rows).token_ids)
    expected = exact_distribution(logits[0].tolist(), **params)
    assert all(expected[token_id] > 0 for token_id in counts)
    statistic, freedom = chi_square(counts, expected, draws)
    assert statistic < freedom + 4.0 * math.sqrt(2.0 * freedom)


@pytest.mark.parametrize(
    "params",
    [
        {"top_p": 0.9},
        {"repetition_penalty": 1.5},
        {"presence_penalty": 1.0, "frequency_penalty": 1.5},
        {"min_tokens": 3, "logit_bias": {EOS: 5.0}},
        {"temperature": 0.0, "frequency_penalty": 2.0, "repetition_penalty": 2.0},
    ],
    ids=str,
)
def test_a_token_behind_a_draft_is_drawn_as_if_the_draft_were_said(params: dict[str, Any]) -> None:
    logits = some_logits(50, 12)
    params = {"temperature": 1.0} | params
    said = [row(seed=i, output=(5, 6, 5), **params) for i in range(50)]
    drafted = [replace(row(seed=i, output=(5,), **params), draft=(6, 5)) for i in range(50)]
    assert sample(logits, drafted).token_ids == sample(logits, said).token_ids


def test_draws_along_one_sequence_are_independent() -> None:
    logits = torch.zeros(1, 4)
    tokens: list[int] = []
    for position in range(3000):
        tokens += sample(logits, [row(seed=7, output=range(position), temperature=1.0)]).token_ids
    pairs = Counter(a * 4 + b for a, b in pairwise(tokens))
    statistic, freedom = chi_square(pairs, [1 / 16] * 16, len(tokens) - 1)
    assert statistic < freedom + 4.0 * math.sqrt(2.0 * freedom)


def test_noise_depends_on_seed_index_and_position_only() -> None:
    logits = torch.zeros(1, 5000)
    first = sample(logits, [row(seed=1, prompt=[5], output=[6, 7], temperature=1.0)]).token_ids
    assert sample(logits, [row(seed=1, prompt=[8, 9, 9], output=[2, 2], temperature=1.0)]).token_ids == first
    assert sample(logits, [row(seed=2, output=[6, 7], temperature=1.0)]).token_ids != first
    assert sample(logits, [row(seed=1, index=1, output=[6, 7], temperature=1.0)]).token_ids != first
    assert sample(logits, [row(seed=1, output=[6], temperature=1.0)]).token_ids != first


def test_a_rows_token_does_not_depend_on_the_batch() -> None:
    settings: list[dict[str, Any]] = [{"temperature": 1.0, **truncation} for truncation in TRUNCATIONS]
    settings += [
        {},
        {"temperature": 0.8, "presence_penalty": 1.0},
        {"temperature": 1.0, "logit_bias": {3: 2.0}},
        {"logprobs": 2},
        {"temperature": 1.0, "top_p": 0.999},
    ]
    logits = some_logits(len(settings), 1500, spread=1.5)
    rows = [row(seed=i, output=[4, 5, 4], **params) for i, params in enumerate(settings)]
    together = sample(logits, rows)
    alone = [sample(logits[i : i + 1], rows[i : i + 1]).token_ids[0] for i in range(len(rows))]
    assert together.token_ids == alone
    backwards = sample(logits.flip(0), rows[::-1]).token_ids[::-1]
    assert backwards == alone


def test_extreme_seeds_are_all_different_streams() -> None:
    logits = torch.zeros(1, 100_000)
    seeds = [0, 1, -1, 2**63 - 1, -(2**63), 2**32, 2**62]
    tokens = {sample(logits, [row(seed=seed, temperature=1.0)]).token_ids[0] for seed in seeds}
    assert len(tokens) == len(seeds)


def test_greedy_rows_take_the_best_token_beside_rows_that_draw() -> None:
    logits = some_logits(3, 50)
    rows = [row(), row(temperature=2.0, seed=3), row(temperature=1e-6)]
    tokens = sample(logits, rows).token_ids
    best = logits.argmax(dim=-1).tolist()
    assert tokens[0] == best[0]
    assert tokens[2] == best[2]


def test_top_k_of_one_is_greedy_for_every_seed() -> None:
    logits = some_logits(1, 50)
    rows = [row(seed=seed, temperature=1.5, top_k=1) for seed in range(2000)]
    assert set(sample(logits.expand(2000, -1), rows).token_ids) == {int(logits.argmax())}


def test_a_top_k_over_the_vocabulary_is_off() -> None:
    logits = some_logits(1, 30)
    rows = [row(seed=seed, temperature=1.0, top_k=k) for seed in range(300) for k in (0, -1, 30, 31, 10_000)]
    tokens = sample(logits.expand(len(rows), -1), rows).token_ids
    assert all(len(set(tokens[i : i + 5])) == 1 for i in range(0, len(tokens), 5))


def slow_adjust(logits: Sequence[float], row: SampleRow) -> list[float]:
    """The slow twin of penalties, bias and minimum length."""
    params = row.params
    output = list(row.token_ids[row.num_prompt_tokens :])
    adjusted = []
    for token_id, raw in enumerate(logits):
        value = raw
        if token_id in row.token_ids:
            penalty = params.repetition_penalty
            value = value / penalty if value > 0 else value * penalty
        if token_id in output:
            value -= params.presence_penalty + params.frequency_penalty * output.count(token_id)
        value += params.logit_bias.get(token_id, 0.0)
        is_end = token_id in params.stop_token_ids or (
            not params.ignore_eos and token_id in row.eos_token_ids
        )
        is_held = is_end and len(output) < params.min_tokens
        adjusted.append(-math.inf if is_held or token_id in params.suppress_token_ids else value)
    return adjusted


@pytest.mark.parametrize(
    "params",
    [
        {"repetition_penalty": 1.8},
        {"repetition_penalty": 0.5},
        {"presence_penalty": 1.5},
        {"frequency_penalty": 0.9},
        {"logit_bias": {2: 100.0}},
        {"logit_bias": {2: -100.0, 3: 5.0}},
        {"min_tokens": 5, "stop_token_ids": (9,)},
        {"min_tokens": 3, "stop_token_ids": (9,)},
        {"min_tokens": 5, "ignore_eos": True, "logit_bias": {EOS: 100.0}},
        {"min_tokens": 5, "logit_bias": {EOS: 100.0}},
        {"suppress_token_ids": (2, 3, 7), "logit_bias": {7: 100.0}},
        {
            "repetition_penalty": 1.3,
            "presence_penalty": -0.5,
            "frequency_penalty": 1.0,
            "logit_bias": {4: 1.0},
            "min_tokens": 8,
        },
    ],
    ids=str,
)
def test_penalties_agree_with_the_slow_twin(params: dict[str, Any]) -> None:
    size = 12
    logits = some_logits(40, size)
    before = logits.clone()
    rows = [row(prompt=[1, 2, 2], output=[3, 4, i % size], **params) for i in range(40)]
    expected = [
        max(range(size), key=slow_adjust(logits[i].tolist(), rows[i]).__getitem__) for i in range(len(rows))
    ]
    assert sample(logits, rows).token_ids == expected
    assert torch.equal(logits, before)


def test_logprobs_are_of_the_unchanged_logits() -> None:
    logits = some_logits(4, 20)
    rows = [row(), row(logprobs=0, logit_bias={5: 100.0}), row(logprobs=3, temperature=1.0), row(logprobs=20)]
    samples: Samples = sample(logits, rows)
    exact = logits.double().log_softmax(dim=-1)
    assert samples.logprobs[0] is None
    for i, count in ((1, 0), (2, 3), (3, 20)):
        found = samples.logprobs[i]
        assert found is not None
        assert found.logprob == pytest.approx(float(exact[i, samples.token_ids[i]]), abs=1e-5)
        assert [token_id for token_id, _ in found.top] == exact[i].argsort(descending=True)[:count].tolist()
        assert [value for _, value in found.top] == pytest.approx(
            exact[i].sort(descending=True).values[:count].tolist(), abs=1e-5
        )
    assert samples.token_ids[1] == 5


def test_logits_of_minus_infinity_are_never_drawn() -> None:
    logits = torch.full((1, 300), -torch.inf)
    logits[0, 17] = -50.0
    logits[0, 40] = -50.0
    rows = [row(seed=seed, temperature=1.0, top_p=p) for seed in range(100) for p in (0.9, 1.0)]
    assert set(sample(logits.expand(200, -1), rows).token_ids) == {17, 40}


@pytest.mark.gpu
def test_a_gpu_draws_the_same_tokens() -> None:
    logits = some_logits(200, 3000)
    rows = [row(seed=i, temperature=1.0, **TRUNCATIONS[i % 3 * 3]) for i in range(200)]
    here = sample(logits, rows).token_ids
    there = sample(logits.cuda(), rows).token_ids
    assert sum(a != b for a, b in zip(here, there, strict=True)) <= 1
