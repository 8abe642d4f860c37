"""The trace as viewers read it: rows named, stages within their steps, microseconds, and no more than numbers."""

import json

from app.chrome_trace import chrome_trace
from app.engine.questions import TracedStep


def step(model: str, start: float, phase: str = "decode") -> TracedStep:
    return TracedStep(
        model=model,
        phase="decode" if phase == "decode" else "prefill",
        stages=[("schedule", start, start + 0.001), ("run", start + 0.001, start + 0.004)],
        num_sequences=2,
        decoding_tokens=1,
        prompt_tokens=5,
        drafted_tokens=0,
        accepted_tokens=0,
        padding_tokens=3,
        preemptions=0,
        ids=[8, 9],
        lengths=[20, 5],
        computed=[1, 5],
    )


def test_a_step_holds_its_stages_in_the_row_of_its_model() -> None:
    trace = json.loads(
        json.dumps(chrome_trace([step("a", 10.0), step("b", 10.5, "prefill"), step("a", 11.0)]))
    )
    assert trace["displayTimeUnit"] == "ms"
    events = trace["traceEvents"]
    names = {(e["name"], e["tid"]): e["args"]["name"] for e in events if e["ph"] == "M"}
    assert names == {
        ("process_name", 0): "engine",
        ("thread_name", 1): "a",
        ("thread_name", 2): "b",
    }
    timed = [event for event in events if event["ph"] == "X"]
    assert all({"name", "cat", "ts", "dur", "pid", "tid", "args"} < event.keys() for event in timed)
    assert [(e["name"], e["tid"]) for e in timed if e["cat"] == "step"] == [
        ("decode", 1),
        ("prefill", 2),
        ("decode", 1),
    ]
    whole, schedule, run = timed[:3]
    assert (whole["ts"], whole["dur"]) == (10_000_000.0, 4000.0)
    assert (schedule["name"], schedule["ts"], schedule["dur"]) == ("schedule", 10_000_000.0, 1000.0)
    assert (run["name"], run["ts"], run["dur"]) == ("run", 10_001_000.0, 3000.0)
    assert whole["args"]["ids"] == [8, 9]
    assert whole["args"]["lengths"] == [20, 5]
    assert whole["args"]["padding_tokens"] == 3


def test_an_engine_that_has_done_nothing_has_an_empty_trace() -> None:
    assert [event["ph"] for event in chrome_trace([])["traceEvents"]] == ["M"]
