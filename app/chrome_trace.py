"""Traced steps as the JSON that chrome://tracing and Perfetto open (Google's Trace Event Format)."""

from collections.abc import Iterable
from typing import Any

from app.engine.questions import TracedStep

_ENGINE = 1
"""The only process."""


def chrome_trace(steps: Iterable[TracedStep]) -> dict[str, Any]:
    """One row for each model; in it each step, and within the step its stages. `ts` and `dur` are in microseconds."""
    steps = list(steps)
    rows = {model: row for row, model in enumerate(dict.fromkeys(step.model for step in steps), 1)}
    events = [_name("process_name", "engine", 0)]
    events += [_name("thread_name", model, row) for model, row in rows.items()]
    for step in steps:
        row = rows[step.model]
        told = {
            name: getattr(step, name) for name in step.__struct_fields__ if name not in ("stages", "phase")
        }
        events.append(_event(step.phase, "step", step.stages[0][1], step.stages[-1][2], row) | {"args": told})
        events += [_event(name, "stage", began, ended, row) for name, began, ended in step.stages]
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _name(what: str, name: str, row: int) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": _ENGINE, "tid": row, "args": {"name": name}}


def _event(name: str, kind: str, began: float, ended: float, row: int) -> dict[str, Any]:
    return {
        "name": name,
        "cat": kind,
        "ph": "X",
        "ts": round(1e6 * began, 3),
        "dur": round(1e6 * (ended - began), 3),
        "pid": _ENGINE,
        "tid": row,
        "args": {},
    }
