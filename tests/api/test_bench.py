"""`quartet bench` against the service itself, on every route, over an engine that computes nothing."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.api.guard import Guard
from app.bench.routes import ROUTES
from app.cli import main
from app.security import KeyRing, new_key
from tests.api.conftest import Service

STREAMED = {"completions", "chat", "generate", "translate", "summarize"}


def bench(service: Service, folder: Path, *flags: str) -> dict[str, Any]:
    """The JSON of a run of 6 requests with prompts of 5 words."""
    path = folder / "bench.json"
    url = f"http://127.0.0.1:{service.port}/v1"
    asked = ["--requests", "6", "--concurrency", "2", "--prompt-tokens", "5", "--json", str(path)]
    assert main(["bench", "--url", url, *asked, *flags]) == 0
    record: dict[str, Any] = json.loads(path.read_text())
    return record


@pytest.mark.parametrize("name", sorted(ROUTES.keys() - {"summarize"}))
def test_every_route_is_measured_with_the_model_that_the_service_has_for_it(
    shared: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    record = bench(shared, tmp_path, "--route", name)
    [level] = record["levels"]
    assert level["requests"] == {"sent": 6, "ok": 6, "refused": 0, "failed": 0, "cut": 0}
    assert level["failures"] == []
    assert level["tokens"]["counted_by_server"] == 6
    assert level["tokens"]["counted_by_pieces"] == 0
    assert (level["ttft_s"] is not None) == (level["tokens"]["output"] > 0) == (name in STREAMED)
    assert record["model"] == shared.client.get("/info").json()["default_models"][ROUTES[name].task]
    assert f"{name} of {record['model']}" in capsys.readouterr().out


def test_a_byte_is_a_token_here_so_no_word_is_one_and_prompts_are_taken_as_words(
    shared: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = bench(shared, tmp_path, "--output-tokens", "7")
    [level] = record["levels"]
    assert not record["prompts_counted"]
    assert level["tokens"]["output"] == 6 * 7
    assert level["tokens"]["asked_input_mean"] == 5
    assert level["tokens"]["input"] > 6 * 5
    assert "taken as words" in capsys.readouterr().out


def test_whole_answers_have_the_same_tokens_as_streams(shared: Service, tmp_path: Path) -> None:
    flags = ["--output-tokens", "3:9", "--seed", "5"]
    [streamed] = bench(shared, tmp_path, *flags)["levels"]
    [whole] = bench(shared, tmp_path, *flags, "--no-stream")["levels"]
    for key in ("input", "output"):
        assert streamed["tokens"][key] == whole["tokens"][key]
    assert (streamed["ttft_s"] is None, whole["ttft_s"] is None) == (False, True)


def test_a_service_that_is_full_refuses_and_that_is_counted(
    service: Service, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    service.engine.is_full = True
    flags = ["--model", "writer", "--requests", "2", "--warmup", "0"]
    assert main(["bench", "--url", f"http://127.0.0.1:{service.port}", *flags]) == 1
    assert "8 clients   0        2       0" in capsys.readouterr().out


def test_the_fields_of_the_record_are_these(shared: Service, tmp_path: Path) -> None:
    """Who reads them later relies on it: what goes or changes its meaning raises `schema`."""
    record = bench(shared, tmp_path, "--slo", "ttft=1")
    assert record["schema"] == 1
    assert sorted(record) == [
        *("interrupted", "levels", "model", "options", "prompts_counted", "quartet", "schema", "started")
    ]
    spread = ["max", "mean", "p50", "p90", "p99"]
    assert fields(record["levels"][0]) == {
        "load": ["kind", "value"],
        "seconds": [],
        "requests": ["cut", "failed", "ok", "refused", "sent"],
        "failures": [],
        "per_second": ["input_tokens", "output_tokens", "requests"],
        "in_flight": [],
        "tokens": [
            *("asked_input_mean", "asked_output_mean", "counted_by_pieces", "counted_by_server"),
            *("input", "output", "pieces"),
        ],
        "ttft_s": spread,
        "inter_token_s": spread,
        "per_token_s": spread,
        "end_to_end_s": spread,
        "refusal_s": [],
        "goodput": ["met", "objectives_s", "output_tokens_per_second", "requests_per_second", "share"],
        "generator": ["kept_up", "lateness_s", "processor_share"],
    }


def fields(value: dict[str, Any]) -> dict[str, list[str]]:
    return {name: sorted(inner) if isinstance(inner, dict) else [] for name, inner in value.items()}


def test_a_key_with_the_scope_infer_is_enough_and_without_one_nothing_is_measured(
    start: Callable[..., Service],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    keys = tmp_path / "keys.txt"
    secret, key = new_key("bench", ["infer"])
    keys.write_text(key.line() + "\n")
    service = start(guard=Guard(KeyRing(keys)))
    assert main(["bench", "--url", f"http://127.0.0.1:{service.port}"]) == 1
    assert "HTTP 401" in capsys.readouterr().err
    monkeypatch.setenv("QUARTET_API_KEY", secret)
    assert bench(service, tmp_path)["levels"][0]["requests"]["ok"] == 6
