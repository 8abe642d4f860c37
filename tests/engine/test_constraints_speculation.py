"""Drafts for constrained sequences, right, wrong and against the grammar: the text is the same."""

import random
from pathlib import Path
from typing import Any

import pytest

from app.engine.protocol import ConstraintKind, GenerateRequest
from app.engine.speculation import Draft, Speculator, StepCost
from tests.engine.constrained import EOS, make_engine, request, run, token_of, write_folder
from tests.engine.schemas import SchemaMaker

A, B, QUOTE = (token_of(letter) for letter in 'ab"')


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("drafted") / "bytes")


@pytest.fixture(autouse=True)
def _every_guess_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """And grammars of our own need no process of their own."""
    monkeypatch.setattr(StepCost, "floor", lambda *_: 0.0)
    monkeypatch.setattr("app.engine.compiler.try_out", lambda grammar: None)


def varied() -> list[GenerateRequest]:
    """Of every kind and temperature, with penalties, and with tokens that are forbidden although they would fit."""
    draw, maker = random.Random(2), SchemaMaker(seed=11)
    kinds: list[tuple[ConstraintKind, Any]] = [
        ("json_schema", {"type": "array", "items": {"enum": ["red", "green"]}, "minItems": 6}),
        ("regex", "(ab|ba){12,30}c?"),
        ("choice", ["one and one and one", "one and one and two", "one"]),
        ("grammar", 'start: ("[" start "]")~1..3 | "x"'),
    ]
    kinds += [("json_schema", maker.schema()) for _ in range(16)] + [("regex", "([a-z]{4} ){20,30}")] * 3
    requests = []
    for number, (kind, text) in enumerate(kinds * 2):
        params: dict[str, Any] = {
            "temperature": draw.choice([0.0, 0.7, 1.5]),
            "max_tokens": draw.choice([30, 120]),
            "frequency_penalty": draw.choice([0.0, 0.2]),
            "repetition_penalty": draw.choice([1.0, 1.2]),
            "suppress_token_ids": draw.choice([(), (), (QUOTE,), (A,)]),
            "stop_token_ids": draw.choice([(), (), (B,)]),
            "ignore_eos": draw.random() < 0.3,
        }
        requests.append(request(number, kind, text, **params))
    return requests


def test_guesses_from_the_text_change_nothing(folder: Path) -> None:
    requests = varied()
    plain = run(make_engine(folder, speculation=False), requests)
    for memory in (100_000_000, 120_000):
        guessing = run(make_engine(folder, kv_cache_memory=memory), requests)
        assert (guessing.tokens, guessing.reasons) == (plain.tokens, plain.reasons)
        assert guessing.failed == plain.failed == {}
        assert guessing.num_held > 100
        assert (guessing.num_preemptions > 0) == (memory < 1_000_000)
    assert (plain.num_drafted, set(plain.reasons.values())) == (0, {"stop", "length"})


@pytest.mark.parametrize("wrong", [0.0, 0.3, 1.0])
def test_drafts_hold_as_far_as_they_are_right(
    folder: Path, wrong: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An oracle drafts what will be said, and beyond its end; some of it is spoilt, mostly to what cannot follow."""
    requests, draw = varied(), random.Random(4)
    plain = run(make_engine(folder, speculation=False), requests)
    lines = [[*one.prompt_ids, *plain.tokens.get(one.id, [])] for one in requests]

    def foretell(self: Speculator, token_ids: list[int], most: int, floor: float) -> Draft:
        futures = [line[len(token_ids) :] for line in lines if line[: len(token_ids)] == token_ids]
        told = [*draw.choice(futures), EOS, A, A][: min(most, 6)]
        spoilt = [draw.choice((A, B, EOS, QUOTE, 200)) if draw.random() < wrong else one for one in told]
        return Draft(spoilt, [0.5] * len(spoilt))

    monkeypatch.setattr(Speculator, "draft", foretell)
    guessing = run(make_engine(folder), requests)
    assert (guessing.tokens, guessing.reasons) == (plain.tokens, plain.reasons)
    assert guessing.failed == {}
    share = guessing.num_held / guessing.num_drafted
    if wrong == 0.0:
        assert share > 0.6
    elif wrong == 1.0:
        assert share < 0.3
    else:
        assert 0.2 < share < 0.7
