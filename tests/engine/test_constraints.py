"""Constrained sequences through the engine: every finished text fits, whatever else runs and however it is sampled."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pytest
from jsonschema import Draft202012Validator

from app.engine.protocol import ConstraintKind
from model.loading import save_model
from model.tokenization import Tokenizer
from tests.engine.constrained import EOS, NUM_TOKENS, make_engine, request, run, token_of, write_folder
from tests.engine.schemas import SchemaMaker
from tests.tiny import T5, random_model

TRANSLATOR = Path(__file__).parents[2] / "model/zoo/translator"
NUM_SCHEMAS = 200
MAX_TOKENS = 1024

A, B = (token_of(letter) for letter in "ab")
HEX = r"#[0-9a-f]{6}"
SUM = 'start: term ("+" term)~2..4\nterm: NUMBER | "(" start ")"\nNUMBER: /[0-9]{1,3}/'


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folder(tmp_path_factory.mktemp("constrained") / "bytes")


@pytest.fixture
def _no_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    """Grammars of our own need no process of their own."""
    monkeypatch.setattr("app.engine.compiler.try_out", lambda grammar: None)


@pytest.mark.usefixtures("_no_trial")
def test_whatever_the_schema_a_finished_text_is_a_value_of_it(folder: Path) -> None:
    maker = SchemaMaker(seed=5)
    schemas = [maker.schema() for _ in range(NUM_SCHEMAS)]
    requests = [request(i, "json_schema", one, max_tokens=MAX_TOKENS) for i, one in enumerate(schemas)]
    outcome = run(make_engine(folder, dtype="float32"), requests)
    assert outcome.failed == {}
    whole = [number for number, reason in outcome.reasons.items() if reason == "stop"]
    assert len(whole) >= 0.6 * NUM_SCHEMAS
    for number in whole:
        text = outcome.text(number)
        Draft202012Validator(schemas[number]).validate(json.loads(text))
    assert len({outcome.text(number) for number in whole}) > 0.5 * len(whole)
    assert all(max(ids, default=0) < NUM_TOKENS for ids in outcome.tokens.values())


@pytest.mark.usefixtures("_no_trial")
@pytest.mark.parametrize(
    ("kind", "text", "pattern"),
    [
        ("regex", HEX, HEX),
        ("regex", "a/b{1,3}(é|世界)", "a/b{1,3}(é|世界)"),
        ("regex", r"^[0-9]{2}\s?(x|y)$", r"[0-9]{2}\s?(x|y)"),
        ("choice", ["yes", "no", 'no, or "yes"\n', "ünsure"], None),
        ("grammar", SUM, r"[0-9+()]+"),
    ],
)
def test_texts_are_what_they_must_be(
    folder: Path, kind: ConstraintKind, text: Any, pattern: str | None
) -> None:
    requests = [request(i, kind, text, max_tokens=600) for i in range(12)]
    outcome = run(make_engine(folder), requests)
    assert outcome.failed == {}
    whole = [outcome.text(number) for number, reason in outcome.reasons.items() if reason == "stop"]
    assert len(whole) >= 6
    if pattern is None:
        assert set(whole) <= set(text)
        assert len(set(whole)) > 1
    else:
        assert all(re.fullmatch(pattern, one) for one in whole)


@pytest.mark.usefixtures("_no_trial")
@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("choice", ["Good morning", " Guten Tag", "{}", "  two blanks"]),
        ("json_schema", {"enum": ["Good morning", {"[x]": [1, None]}, " Guten Tag"]}),
        ("grammar", 'start: " "? ("Good" | "{}") MORE\nMORE: / ?[a-z]{3}/'),
    ],
)
def test_a_blank_that_decoding_drops_is_not_the_text_s(
    tmp_path: Path, kind: ConstraintKind, text: Any
) -> None:
    """An encoder-decoder whose pieces begin words with a blank, and which spells braces in bytes."""
    folder = tmp_path / "t5"
    save_model(random_model(T5, vocab_size=8192, eos_token_ids=(1,)), folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(TRANSLATOR / file, folder / file)
    requests = [
        msgspec.structs.replace(one, constraint=msgspec.structs.replace(one.constraint, opens_text=True))
        for one in (request(i, kind, text) for i in range(16))
        if one.constraint is not None
    ]
    outcome = run(make_engine(folder), requests)
    assert set(outcome.reasons.values()) == {"stop"}
    tokenizer = Tokenizer.from_folder(folder)
    texts = {tokenizer.decode(ids) for ids in outcome.tokens.values()}
    if kind == "choice":
        assert texts <= set(text)
    elif kind == "json_schema":
        assert all(json.loads(one) in text["enum"] and not one.startswith(" ") for one in texts)
    else:
        assert all(re.fullmatch(r" ?(Good|\{\}) ?[a-z]{3}", one) for one in texts)
    assert len(texts) > 1


@pytest.mark.usefixtures("_no_trial")
def test_sums_add_up(folder: Path) -> None:
    """A context-free language: what a regular expression cannot check, Python's parser can."""
    outcome = run(make_engine(folder), [request(i, "grammar", SUM, max_tokens=400) for i in range(20)])
    whole = [outcome.text(number) for number, reason in outcome.reasons.items() if reason == "stop"]
    assert len(whole) >= 8
    for one in whole:
        parts = re.sub(r"\b0+(?=[0-9])", "", one)
        assert isinstance(eval(parts, {"__builtins__": {}}), int)  # of digits, plus signs and brackets


@pytest.mark.usefixtures("_no_trial")
def test_free_sequences_say_what_they_say_alone(folder: Path) -> None:
    free = [request(i, temperature=temperature) for i, temperature in enumerate((0.0, 0.7, 1.5))]
    bound = [request(i, "regex", "[a-z ]{5,40}") for i in range(10, 14)]
    alone = run(make_engine(folder), free)
    together = run(make_engine(folder), [bound[0], free[0], bound[1], free[1], *bound[2:], free[2]])
    assert {number: together.tokens[number] for number in alone.tokens} == alone.tokens
    assert all(re.fullmatch("[a-z ]*", together.text(one.id)) for one in bound)


@pytest.mark.usefixtures("_no_trial")
def test_preemption_changes_no_text(folder: Path) -> None:
    requests = [
        *(request(i, "regex", "([a-z]{4} ){9,20}", max_tokens=120) for i in range(8)),
        *(request(i, "json_schema", {"type": "array", "items": {"type": "integer"}}) for i in range(8, 12)),
    ]
    ample = run(make_engine(folder), requests)
    tight = run(make_engine(folder, kv_cache_memory=300_000), requests)
    assert (ample.num_preemptions, tight.num_preemptions > 0) == (0, True)
    assert (tight.tokens, tight.reasons) == (ample.tokens, ample.reasons)


@pytest.mark.usefixtures("_no_trial")
@pytest.mark.parametrize(
    ("pattern", "params", "text", "reason"),
    [
        pytest.param("ab", {}, "ab", "stop", id="the text is whole, and nothing can follow"),
        pytest.param("ab", {"min_tokens": 9}, "ab", "stop", id="whole before the minimum"),
        pytest.param("ab", {"max_tokens": 1}, "a", "length", id="cut by the limit"),
        pytest.param("ab", {"ignore_eos": True}, "ab", "stop", id="no end token needed"),
        pytest.param(
            "a+", {"ignore_eos": True, "max_tokens": 7}, "a" * 7, "length", id="no end token allowed"
        ),
        pytest.param(
            "a+", {"min_tokens": 7, "max_tokens": 7}, "a" * 7, "length", id="no end before the minimum"
        ),
        pytest.param("a+b", {"suppress_token_ids": (B,)}, "a" * 64, "length", id="never whole"),
        pytest.param("aab", {"suppress_token_ids": (B,)}, "aa", "length", id="all forbidden, not whole"),
        pytest.param(
            "ab?", {"suppress_token_ids": (B,), "min_tokens": 5}, "a", "stop", id="all forbidden, whole"
        ),
        pytest.param("(ab)*", {"bad_words": ((A, B, A),), "ignore_eos": True}, "ab", "stop", id="a bad word"),
        pytest.param(
            "a*c", {"stop_token_ids": (A,), "temperature": 0}, "c", "stop", id="no end within the text"
        ),
        pytest.param(
            "ab*", {"stop_token_ids": (B,), "logit_bias": {B: 100.0}}, "a", "stop", id="a stop token"
        ),
    ],
)
def test_how_a_constrained_text_ends(
    folder: Path, pattern: str, params: dict[str, Any], text: str, reason: str
) -> None:
    outcome = run(make_engine(folder), [request(1, "regex", pattern, **params)])
    assert (outcome.text(1), outcome.reasons[1]) == (text, reason)
    assert EOS not in outcome.tokens[1]


def test_the_grammar_s_end_is_the_model_s_choice(folder: Path) -> None:
    """Behind a whole text that could go on, the end token is drawn like any other."""
    bias = {EOS: 100.0}
    outcome = run(make_engine(folder), [request(1, "regex", "(ab)*", logit_bias=bias)])
    assert (outcome.tokens[1], outcome.reasons[1]) == ([], "stop")
    outcome = run(make_engine(folder), [request(1, "regex", "(ab)+", logit_bias=bias)])
    assert (outcome.text(1), outcome.reasons[1]) == ("ab", "stop")
