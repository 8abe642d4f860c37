"""Summaries against what the summarization pipeline of transformers 4.57.6 once said, through HTTP.

`record_summaries.py` made what is under `recorded/`; the checkpoints take 64 tokens.
"""

import json
from collections.abc import Iterator

import pytest

from tests.e2e.conftest import Process
from tests.parity.test_recorded import build, post, recorded

RECORD = recorded("summarize")
TEXTS: list[str] = RECORD["texts"]
FAMILIES = [name for name, value in RECORD.items() if isinstance(value, dict)]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    root = tmp_path_factory.mktemp("recorded")
    folders = {family: build(RECORD[family], root / family) for family in FAMILIES}
    models = [part for name, path in folders.items() for part in ("--model", f"{name}={path}")]
    process = Process(*models, "--kv-cache-memory", str(16 << 20), "--dtype", "float32")
    yield process
    assert process.stop() == 0


def test_there_are_fifty_texts() -> None:
    assert len(TEXTS) == len(set(TEXTS)) == 50
    assert {"", "x"} <= set(TEXTS)


@pytest.mark.parametrize("family", FAMILIES)
def test_summaries_with_all_that_is_published_for_the_task(service: Process, family: str) -> None:
    """Nothing is asked for but to cut what is too long."""
    got = post(service, "summarize", model=family, text=TEXTS, truncate=True)["summaries"]
    wanted = RECORD[family]["answers"]
    assert dict(zip(TEXTS, [one["text"] for one in got], strict=True)) == dict(
        zip(TEXTS, wanted, strict=True)
    )
    assert len(set(wanted)) > 20, "summaries that are all alike show nothing"


@pytest.mark.parametrize("family", FAMILIES)
def test_the_last_text_but_two_is_the_longest_that_fits(service: Process, family: str) -> None:
    fits, over, far_over = TEXTS[-3:]
    [one] = post(service, "summarize", model=family, text=[fits])["summaries"]
    assert one["text"] == RECORD[family]["answers"][-3]
    for text, count in ((over, 65), (far_over, 194)):
        answer = service.client.post("/v1/summarize", json={"model": family, "text": text})
        assert answer.status_code == 400
        assert answer.json()["error"]["code"] == "too_long"
        assert f"the input has {count} tokens" in answer.json()["error"]["message"]


def test_a_stream_says_the_same(service: Process) -> None:
    """A search's text comes whole."""
    body = {"model": "bart", "text": TEXTS[0], "stream": True}
    lines = service.client.post("/v1/summarize", json=body).text.split("\n\n")
    *events, done = [line.removeprefix("data: ") for line in lines if line]
    assert done == "[DONE]"
    [event] = [json.loads(event) for event in events]
    assert event["summaries"][0]["text"] == RECORD["bart"]["answers"][0]
