"""The real service with a receiver of traces: the engine's own times, a crash in between, the last spans at the end."""

import json
from collections.abc import Callable

import pytest

from tests.api.otlp_receiver import receiving
from tests.e2e.conftest import Process


def test_the_engines_times_and_its_restart_are_in_the_traces(
    start: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1000000")  # what comes, comes at the end
    monkeypatch.delenv("OTEL_TRACES_SAMPLER", raising=False)
    with receiving() as receiver:
        process = start("--otlp-endpoint", receiver.url, "--log-format", "json")
        process.client.post("/v1/classify", json={"text": ["one", "two"]}, headers={"X-Request-ID": "texts"})
        body = {"prompt": "Go on", "max_tokens": 1000, "ignore_eos": True, "stream": True}
        with process.client.stream("POST", "/v1/generate", json=body) as response:
            lines = response.iter_lines()
            next(lines)
            process.worker().kill()
            assert [line for line in lines if line.startswith("data: ")][-1] == "data: [DONE]"
        assert receiver.spans() == []
        assert process.stop() == 0
        spans = receiver.spans()
    roots = [span for span in spans if not span.parent]
    assert [root.name for root in roots] == ["POST /v1/classify", "POST /v1/generate"]
    for root, phases in zip(roots, (["queue", "encode"], ["queue", "prefill", "decode"]), strict=True):
        parts = sorted((span for span in spans if span.parent == root.id), key=lambda span: span.start)
        assert sorted(part.name for part in parts) == sorted(phases)
        by_name = {part.name: part for part in parts}
        times = [time for name in phases for time in (by_name[name].start, by_name[name].end)]
        assert [root.start, *times, root.end] == sorted([root.start, *times, root.end])
        assert root.end - root.start < 2 * (times[-1] - times[0]) + 10**9
    assert [root.events for root in roots] == [[], ["engine.restarted"]]
    assert roots[1].attributes["gen_ai.usage.output_tokens"] == 1000
    logged = [json.loads(line) for line in process.lines if line.startswith("{")]
    assert [line["trace_id"] for line in logged if line["request_id"] == "texts"] == [roots[0].trace_id]
