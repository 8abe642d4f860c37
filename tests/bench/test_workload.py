"""What is sent: seeded lengths and words, the user's prompts, traces."""

import json
import random
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from app.bench.routes import ROUTES
from app.bench.vocabulary import Vocabulary
from app.bench.workload import Wanted, Workload, log_uniform, read_prompts, read_trace
from app.errors import ConfigError


def workload(**changes: Any) -> Workload:
    fields: dict[str, Any] = {
        "fill": ROUTES["completions"].body,
        "vocabulary": Vocabulary(overhead=2),
        "prompt_tokens": (8, 64),
        "output_tokens": (4, 16),
        "seed": 0,
    }
    return Workload(**fields | changes)


def test_the_same_seed_and_level_give_the_same_requests_and_others_give_others() -> None:
    def first(seed: int, level: str) -> list[object]:
        return list(islice(workload(seed=seed).requests(level), 50))

    assert first(0, "a") == first(0, "a")
    assert first(0, "a") != first(1, "a")
    assert first(0, "a") != first(0, "b")


def test_synthetic_prompts_have_their_length_with_what_is_put_around_them() -> None:
    for request in islice(workload().requests("a"), 200):
        assert request.prompt_tokens is not None
        assert 8 <= request.prompt_tokens <= 64
        assert len(request.body["prompt"].split()) == request.prompt_tokens - 2
        assert request.body["max_tokens"] == request.output_tokens
        assert 4 <= request.body["max_tokens"] <= 16


def test_lengths_are_log_uniform_with_both_bounds() -> None:
    chance = random.Random(0)
    drawn = [log_uniform(chance, (10, 1000)) for _ in range(20_000)]
    assert (min(drawn), max(drawn)) == (10, 1000)
    assert sum(length < 100 for length in drawn) / len(drawn) == pytest.approx(0.5, abs=0.02)
    assert {log_uniform(chance, (1, 3)) for _ in range(100)} == {1, 2, 3}
    assert {log_uniform(chance, (5, 5)) for _ in range(100)} == {5}


@pytest.mark.parametrize("route", ROUTES.values(), ids=lambda route: route.name)
def test_only_routes_that_write_are_told_a_length(route: Any) -> None:
    body = route.body("some words", 5)
    assert ("max_tokens" in body) == ("temperature" in body) == route.writes
    assert "some words" in json.dumps(body)


def test_a_mask_is_put_where_there_is_none() -> None:
    fill = ROUTES["fill-mask"].fill
    assert fill("a b")["text"] == "a b [MASK]"
    assert fill("a <mask> b")["text"] == "a <mask> b"


def test_own_prompts_come_in_order_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text("one\n\nzwei ü\n", encoding="utf-8")
    requests = list(islice(workload(lines=read_prompts(path)).requests("a"), 3))
    assert [request.body["prompt"] for request in requests] == ["one", "zwei ü", "one"]
    assert [request.prompt_tokens for request in requests] == [None] * 3


def test_a_trace_is_replayed_once_at_its_moments(tmp_path: Path) -> None:
    lines = [
        {"prompt_tokens": 12, "output_tokens": 5, "at": 2.5},
        {"prompt": "said", "at": 0, "body": {"temperature": 1, "stop": ["x"]}},
    ]
    path = tmp_path / "trace.jsonl"
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n", encoding="utf-8")
    said, drawn = workload(lines=read_trace(path)).replayed()
    assert (said.at, drawn.at) == (0, 2.5)
    assert said.body == {"prompt": "said", "max_tokens": said.output_tokens, "temperature": 1, "stop": ["x"]}
    assert (drawn.prompt_tokens, drawn.output_tokens, drawn.body["max_tokens"]) == (12, 5, 5)
    assert len(drawn.body["prompt"].split()) == 10


def test_a_trace_without_moments_is_only_prompts() -> None:
    lines = [Wanted(prompt="a", output_tokens=1), Wanted(prompt="b", output_tokens=2)]
    drawn = list(islice(workload(lines=lines).requests("x"), 3))
    assert [(one.body["prompt"], one.body["max_tokens"]) for one in drawn] == [("a", 1), ("b", 2), ("a", 1)]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no requests"),
        ("{", "line 1"),
        ("[]", "line 1: not a JSON object"),
        ('{"prompt": "a"}\n{"prompts": "a"}', "line 2: unknown field 'prompts'"),
        ('{"prompt": 5}', "prompt must be a text"),
        ('{"prompt_tokens": 0}', "prompt_tokens must be a whole number from 1"),
        ('{"output_tokens": true}', "output_tokens must be a whole number"),
        ('{"output_tokens": 1.5}', "output_tokens must be a whole number"),
        ('{"at": -1}', "at must be a number of seconds from 0"),
        ('{"at": NaN}', "at must be"),
        ('{"at": Infinity}', "at must be finite"),
        ('{"body": []}', "body must be a JSON object"),
        ('{"at": 1}\n{"prompt": "a"}', "`at` is given for some"),
    ],
)
def test_a_bad_trace_is_told_with_its_line(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError, match="--trace") as raised:
        read_trace(path)
    assert words in str(raised.value)


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "latin").write_bytes(b"\xff")
    for name in ("absent", "empty", "latin"):
        with pytest.raises(ConfigError, match=f"--prompts: .*{name}"):
            read_prompts(tmp_path / name)
