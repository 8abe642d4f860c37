"""The last steps with the times of their stages, for whoever asks where the time goes. Knows no texts and no tokens."""

from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from app.engine.protocol import Report
from app.engine.questions import MAX_TRACED_STEPS, Traced, TracedStep, TraceSteps
from app.engine.scheduled_step import ScheduledStep

MAX_TRACED_SEQUENCES = 256
"""Of a step; with that a full answer is some megabytes, and the ring as many."""


class Laps:
    """The stages of a step, each from the end of the one before: (name, began, ended) in the clock's seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.last = clock()
        self.stages: list[tuple[str, float, float]] = []

    def end(self, name: str) -> None:
        """A stage is over."""
        now = self._clock()
        self.stages.append((name, self.last, now))
        self.last = now


@dataclass(frozen=True, slots=True)
class _Noted:
    """A step as it is kept: `ids`, `lengths` and `computed` as packed integers."""

    stages: list[tuple[str, float, float]]
    report: Report
    num_decoding: int
    ids: "array[int]"
    lengths: "array[int]"
    computed: "array[int]"


class Trace:
    """A ring of `MAX_TRACED_STEPS` steps."""

    def __init__(self) -> None:
        self._steps: deque[_Noted] = deque(maxlen=MAX_TRACED_STEPS)

    def note(self, step: ScheduledStep, report: Report, laps: Laps) -> None:
        """A step is over; its sequences have what it gave them."""
        sequences = step.sequences[:MAX_TRACED_SEQUENCES]
        ids = array("q", [sequence.request.id for sequence in sequences])
        lengths = array("q", [len(sequence.source_ids) + len(sequence.token_ids) for sequence in sequences])
        computed = array("q", step.num_tokens[:MAX_TRACED_SEQUENCES])
        self._steps.append(_Noted(laps.stages, report, step.num_decoding, ids, lengths, computed))

    def answer(self, question: TraceSteps) -> Traced:
        """The last steps, as many as asked for or there are, oldest first."""
        first = max(0, len(self._steps) - question.steps)
        return Traced(question.id, [_told(noted) for noted in list(self._steps)[first:]])


def _told(noted: _Noted) -> TracedStep:
    report = noted.report
    return TracedStep(
        model=report.model,
        phase=report.phase,
        stages=noted.stages,
        num_sequences=report.batch_size,
        decoding_tokens=noted.num_decoding,
        prompt_tokens=report.batch_tokens - noted.num_decoding - report.drafted_tokens,
        drafted_tokens=report.drafted_tokens,
        accepted_tokens=report.accepted_tokens,
        padding_tokens=report.padding_tokens,
        preemptions=report.preemptions,
        ids=noted.ids.tolist(),
        lengths=noted.lengths.tolist(),
        computed=noted.computed.tolist(),
    )
