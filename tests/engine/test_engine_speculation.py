"""Drafts change how many steps a text takes, never the text: the engine with guesses, right and wrong, and without."""

import random
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from app.engine.engine import Engine
from app.engine.protocol import GenerateRequest, Report, TokenLogprobs, Tokens
from app.engine.sampling_params import SamplingParams
from app.engine.speculation import HOPELESS, Draft, Speculator, StepCost
from model.greedy import generate_greedy
from model.loading import load_model, save_model
from tests.engine.test_engine import greedy, make_engine, num_free, random_ids
from tests.tiny import LLAMA, T5, random_model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    for name, config in {"llama": LLAMA, "t5": T5}.items():
        save_model(random_model(config), root / name)
    return {name: root / name for name in ("llama", "t5")}


@pytest.fixture
def free_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if rows cost nothing, so that every guess is tried."""
    monkeypatch.setattr(StepCost, "floor", lambda *_: 0.0)


class Told:
    """What a run gave: tokens, log-probabilities and ends by request, and the steps' reports."""

    def __init__(self, engine: Engine, requests: list[GenerateRequest], seed: int = 0) -> None:
        source, waiting, all_free = random.Random(seed), list(requests), num_free(engine)
        self.tokens: dict[int, list[int]] = {request.id: [] for request in requests}
        self.logprobs: dict[int, list[TokenLogprobs]] = {request.id: [] for request in requests}
        self.reasons: dict[int, str] = {}
        self.reports: list[Report] = []
        while waiting or engine.has_work:
            for _ in range(source.randint(0, 3)):
                if waiting:
                    engine.add(waiting.pop(0))
            step = engine.step()
            if step.report is not None:
                self.reports.append(step.report)
            for output in step.outputs:
                assert isinstance(output, Tokens), output
                assert output.id not in self.reasons, "a sequence ends once"
                self.tokens[output.id] += output.token_ids
                self.logprobs[output.id] += output.logprobs or []
                if output.finish_reason is not None:
                    self.reasons[output.id] = output.finish_reason
        assert num_free(engine) == all_free

    @property
    def num_preempted(self) -> int:
        return sum(report.preemptions for report in self.reports)


def mixed(count: int, longest: int = 40) -> list[GenerateRequest]:
    """Greedy and sampled ones, with limits of all lengths, some of them with several end tokens."""
    source = random.Random(5)
    requests = []
    for number in range(count):
        params = SamplingParams(
            max_tokens=source.randint(1, longest),
            temperature=source.choice([0.0, 0.0, 0.3, 1.0]),
            seed=number,
            logprobs=source.choice([None, 1]),
            stop_token_ids=source.choice([(), (5, 17, 60)]),
            repetition_penalty=source.choice([1.0, 1.0, 1.2]),
            frequency_penalty=source.choice([0.0, 0.0, 0.3]),
            presence_penalty=source.choice([0.0, 0.0, -0.5]),
            min_tokens=source.choice([0, 1]),
        )
        model = source.choice(["llama", "t5"])
        requests.append(
            GenerateRequest(id=number, model=model, prompt_ids=random_ids(source, 30), params=params)
        )
    return requests


@pytest.mark.usefixtures("free_rows")
@pytest.mark.parametrize("cache_bytes", [2_000_000, 250_000])
def test_the_same_texts_with_guesses_and_without(folders: dict[str, Path], cache_bytes: int) -> None:
    requests = mixed(28, longest=60)
    guessing = Told(make_engine(folders, kv_cache_memory=cache_bytes, speculation=True), requests)
    plain = Told(make_engine(folders), requests)
    assert guessing.tokens == plain.tokens
    assert guessing.reasons == plain.reasons
    for number, entries in plain.logprobs.items():
        assert [e.logprob for e in guessing.logprobs[number]] == pytest.approx(
            [e.logprob for e in entries], abs=1e-9
        )
    assert (guessing.num_preempted > 0) == (cache_bytes < 1_000_000)
    assert sum(report.drafted_tokens for report in guessing.reports) > 0
    assert sum(report.drafted_tokens for report in plain.reports) == 0


@pytest.mark.usefixtures("free_rows")
@pytest.mark.parametrize("wrong", [0.0, 0.3, 1.0])
def test_drafts_hold_as_far_as_they_are_right(
    folders: dict[str, Path], wrong: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An oracle drafts the plain loop's tokens, of which some are spoilt."""
    plain = load_model(folders["llama"])
    source = random.Random(3)
    requests = [greedy(number, "llama", random_ids(source, 20), 30, ignore_eos=True) for number in range(12)]
    wanted = {
        request.id: generate_greedy(plain, [request.prompt_ids], 30, ignore_eos=True)[0]
        for request in requests
    }
    lines = [request.prompt_ids + wanted[request.id] for request in requests]

    def foretell(self: Speculator, token_ids: list[int], most: int, floor: float) -> Draft:
        futures = [line[len(token_ids) :] for line in lines if line[: len(token_ids)] == token_ids]
        future = futures[0][: min(most, 6)]
        spoilt = [token if source.random() >= wrong else 95 - token for token in future]
        return Draft(spoilt, [0.5] * len(spoilt))

    monkeypatch.setattr(Speculator, "draft", foretell)
    told = Told(make_engine(folders, speculation=True), requests)
    assert told.tokens == wanted
    drafted = sum(report.drafted_tokens for report in told.reports)
    accepted = sum(report.accepted_tokens for report in told.reports)
    assert drafted > 100
    if wrong == 0.0:
        assert accepted == drafted
        assert len(told.reports) < 60, "six tokens at a time"
    elif wrong == 1.0:
        assert accepted == 0
    else:
        assert 0.3 < accepted / drafted < 0.8


def test_where_a_row_is_dear_nothing_is_read_and_nothing_drafted(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(StepCost, "floor", lambda *_: HOPELESS)
    monkeypatch.setattr("app.engine.drafting.Speculator", None)  # would fail where one is made
    told = Told(make_engine(folders, speculation=True), mixed(6))
    assert len(told.reasons) == 6
    assert sum(report.drafted_tokens for report in told.reports) == 0


@pytest.mark.usefixtures("free_rows")
@pytest.mark.parametrize(
    ("params", "is_guessed_for"),
    [
        ({}, True),
        ({"temperature": 1.0, "top_p": 0.9}, True),
        ({"repetition_penalty": 1.1, "presence_penalty": 0.5, "frequency_penalty": 0.1}, True),
        ({"logit_bias": {9: 1.0}, "suppress_token_ids": (11,), "min_tokens": 20}, True),
        ({"no_repeat_ngram_size": 3}, False),
        ({"bad_words": ((5, 6),)}, False),
        ({"forced_eos_tokens": (2,), "ignore_eos": False}, False),
        ({"num_beams": 2}, False),
    ],
    ids=str,
)
def test_who_is_guessed_for(folders: dict[str, Path], params: dict[str, Any], is_guessed_for: bool) -> None:
    """All but those whose rules read what was said, and beams."""
    engine = make_engine(folders, speculation=True)
    values: dict[str, Any] = {"max_tokens": 40, "seed": 0, "ignore_eos": True} | params
    engine.add(GenerateRequest(id=1, model="llama", prompt_ids=[7, 8] * 9, params=SamplingParams(**values)))
    drafted = 0
    while engine.has_work:
        report = engine.step().report
        drafted += report.drafted_tokens if report else 0
    assert (drafted > 0) == is_guessed_for


@pytest.mark.usefixtures("free_rows")
def test_a_repeating_text_takes_fewer_steps(folders: dict[str, Path]) -> None:
    params = SamplingParams(max_tokens=100, seed=0, ignore_eos=True, logit_bias={5: 50.0})
    request = GenerateRequest(id=0, model="llama", prompt_ids=[11, 12, 13], params=params)
    told = Told(make_engine(folders, speculation=True), [request])
    plain = Told(make_engine(folders), [request])
    assert told.tokens == plain.tokens
    assert len(told.reports) < 0.6 * len(plain.reports)


@pytest.mark.usefixtures("free_rows")
def test_drafted_rows_count_as_rows_where_a_steps_time_is_learned(folders: dict[str, Path]) -> None:
    engine = make_engine(folders, speculation=True, target_step_ms=100.0)
    assert engine._pace is not None
    noted: list[int] = []

    def note(model: str, num_rows: int, num_prompt: int, seconds: float) -> None:
        noted.append(num_rows + num_prompt)

    requests = [greedy(number, "llama", [7 + number, 8] * 9, 40, ignore_eos=True) for number in range(2)]
    with patch.object(engine._pace, "note", note):
        told = Told(engine, requests)
    assert any(report.drafted_tokens for report in told.reports)
    assert noted == [report.batch_tokens for report in told.reports]
