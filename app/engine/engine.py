"""The engine: one loop over all served models. `step()` names the stages; no threads, no asyncio."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable

from torch import Tensor

from app.engine.admission import Limits, RequestError, Served, make_sequence
from app.engine.batch import Batch, build_batch
from app.engine.choosing import Choices, Chooser
from app.engine.committer import Committer
from app.engine.compiler import Compiler
from app.engine.drafting import Drafting
from app.engine.faults import Prospects, is_out_of_memory
from app.engine.flight import FlightRecorder
from app.engine.kv_cache import Arena
from app.engine.loader import Loader
from app.engine.models import Models
from app.engine.pace import LEAST_TOKENS, Pace
from app.engine.protocol import (
    Answer,
    EncodeRequest,
    GenerateRequest,
    ModelInfo,
    Report,
    StepOutputs,
    served_name,
)
from app.engine.questions import LoadAdapter, LoadModel, Question, Reply, TraceSteps, Unload
from app.engine.runner import EncoderOutput
from app.engine.scheduled_step import ScheduledStep
from app.engine.scheduler import Scheduler
from app.engine.sequence import Sequence
from app.engine.trace import Laps, Trace

logger = logging.getLogger(__name__)

REPORT_INTERVAL = 0.1
"""Seconds between reports of the gauges, which cost a walk over all sequences."""


class Engine:
    """Sequences in, tokens and encoder outputs out, a step at a time."""

    def __init__(
        self,
        models: Models,
        loader: Loader,
        arena: Arena,
        scheduler: Scheduler,
        compiler: Compiler,
        drafting: Drafting,
        pace: Pace | None,
        prospects: Prospects,
        clock: Callable[[], float],
        recorder: FlightRecorder | None = None,
    ) -> None:
        self._models, self._loader = models, loader
        self._runners, self._served, self._arena = models.runners, models.served, arena
        self._scheduler, self._blocks = scheduler, scheduler.blocks
        self._compiler, self._drafting = compiler, drafting
        self._pace, self._clock = pace, clock
        self._chooser, self._committer = Chooser(), Committer(scheduler, self._drafting)
        self._trace = Trace()
        self._replies: list[Reply] = []
        self._recorder, self._prospects = recorder, prospects
        self._last_report = 0.0

    @property
    def infos(self) -> list[ModelInfo]:
        """Of all that is served now."""
        return list(self._models.infos.values())

    @property
    def has_work(self) -> bool:
        """Would `step` compute anything?"""
        return self._scheduler.has_work or self._compiler.has_news

    def when_ready(self, wake: Callable[[], object]) -> None:
        """Has `wake` called, from any thread, when there is something to do that nobody has sent: a constraint is
        compiled, weights are read."""
        self._compiler.wake = self._loader.wake = wake

    def add(self, request: GenerateRequest | EncodeRequest) -> None:
        """Puts a request in line. Raises RequestError where it can never be served."""
        if request.model not in self._served:
            raise RequestError(f"unknown model {served_name(request.model)!r}")
        served = self._served[request.model]
        size = self._runners[served.model].block_size
        limits = Limits(size, self._blocks.num_blocks, self._scheduler.max_num_seqs)
        sequence = make_sequence(request, served, limits, self._clock())
        if isinstance(request, GenerateRequest) and request.constraint is not None:
            self._compiler.hold(sequence)
            self._record(())
        else:
            self._scheduler.add(sequence)

    def abort(self, ids: Iterable[int]) -> None:
        """Ends these requests and frees what they hold; unknown ones are no error."""
        ids = list(ids)
        self._compiler.drop(ids)
        self._scheduler.abort(ids)

    def ask(self, question: Question) -> None:
        """Something that is no request; `replies` has the answer at once or later."""
        match question:
            case TraceSteps():
                self._replies.append(self._trace.answer(question))
            case LoadModel() | LoadAdapter():
                self._loader.load(question)
            case Unload():
                self._loader.unload(question)

    def replies(self) -> list[Reply]:
        """What there is to answer by now. Called between steps: here models and adapters come and go."""
        replies = [*self._replies, *self._loader.settle(self._is_used)]
        self._replies.clear()
        return replies

    def _is_used(self, served: Served) -> bool:
        lanes = self._scheduler.lanes.every
        everybody = (*(s for lane in lanes for s in (*lane.running, *lane.waiting)), *self._compiler.waiting)
        if served.adapter is None:
            return any(one.model == served.model for one in everybody)
        return any(one.adapter == served.adapter for one in everybody)

    def step(self) -> StepOutputs:
        """Schedule, batch, run, sample, commit: one step of one model.

        Where something in between fails, the sequence at fault gets a failure, and all others go on.
        """
        laps = Laps(self._clock)
        compiled, refused = self._compiler.take()
        for sequence in compiled:
            self._scheduler.add(sequence)
        step = self._scheduler.schedule(self._prompt_budgets(laps.last))
        if step is None:
            return StepOutputs([*refused])
        self._record(step.sequences, self._prospects.seconds(step.model))
        laps.end("schedule")
        started = laps.last
        begun = _begin(step.sequences, started)
        done = self._run(step, laps)
        self._record(())  # not where it raises: then this is what the process ended with
        return StepOutputs([*refused, *done.outputs], done.report, started, begun, step.preempted)

    def _record(self, sequences: Iterable[Sequence], expected: float = 0.0) -> None:
        """What would be to blame if this process ended now: a step's sequences, and those whose constraints compile."""
        if self._recorder is None:
            return
        at_risk = [*sequences, *self._compiler.waiting]
        if at_risk:
            self._recorder.begin(expected, [(sequence.id, len(sequence.token_ids)) for sequence in at_risk])
        else:
            self._recorder.end()

    def _prompt_budgets(self, now: float) -> dict[str, int] | None:
        """No limit for a request that is alone: nobody waits for its steps to end."""
        if self._pace is None or self._scheduler.num_requests == 1:
            return None
        lanes = self._scheduler.lanes
        is_anyone = any(lane.num_decoding for lane in lanes.every)
        budgets: dict[str, int] = {}
        for model, lane in lanes.ordinary.items():
            is_cut, since = self._runners[model].model.config.kind == "decoder", lane.silent_since
            waited = 0.0 if since is None else now - since
            budgets[model] = self._pace.budget(model, lane.num_decoding, is_cut, is_anyone, waited)
        return budgets

    def _run(self, step: ScheduledStep, laps: Laps) -> StepOutputs:
        started, held_before = laps.last, self._drafting.num_held
        try:
            batch, logits, encoded = self._compute(step, laps)
        except Exception as fault:
            return StepOutputs(self._give_up(step, fault))
        choices = Choices()
        if logits is not None:
            choices = self._chooser.choose(batch.logit_rows, logits)
            laps.end("sample")
        self._scheduler.commit(step)
        outputs = self._committer.commit(batch, choices, encoded)
        laps.end("commit")
        duration = laps.last - started
        self._scheduler.charge(step, duration)
        self._prospects.note(step.model, duration)
        num_prompt = batch.num_tokens - step.num_decoding - step.num_drafted
        if self._pace is not None:
            self._pace.note(step.model, step.num_decoding + step.num_drafted, num_prompt, duration)
        if not num_prompt:
            self._drafting.note(step.model, batch.num_tokens, duration)
        report = self._report(step, batch, laps.last, duration, self._drafting.num_held - held_before)
        self._trace.note(step, report, laps)
        return StepOutputs(outputs, report)

    def _compute(self, step: ScheduledStep, laps: Laps) -> tuple[Batch, Tensor | None, list[EncoderOutput]]:
        """Nothing of it is known to anybody yet, so that where it fails it can be done again."""
        runner = self._runners[step.model]
        if step.stale_blocks:
            self._arena.clear(step.stale_blocks)
        if step.copies:
            self._arena.copy(step.copies)
        batch = build_batch(step, runner.block_size, runner.device, runner.grouping)
        laps.end("batch")
        logits, encoded = runner.run(batch)
        laps.end("run")
        return batch, logits, encoded

    def _give_up(self, step: ScheduledStep, fault: Exception) -> list[Answer]:
        """A step could not be computed. Too large for the memory, it is cut; else its sequences are tried one by one,
        and one that was by itself has failed."""
        units, size = step.units, step.size
        if step.stale_blocks:
            self._arena.clear(step.stale_blocks)  # whether that was done or not
        can_be_cut = size > LEAST_TOKENS and (len(units) > 1 or not step.sequences[0].needs_encode)
        if is_out_of_memory(fault) and can_be_cut:
            logger.warning(
                "a step of %s with %d tokens is too large for the memory: %s", step.model, size, fault
            )
            self._scheduler.ease(step)
            return []
        logger.error("a step of %s failed with %d sequences", step.model, len(step.sequences), exc_info=fault)
        if len(units) > 1:
            self._scheduler.isolate(step)
            return []
        return [self._committer.fail(units[0][0])]

    def _report(
        self, step: ScheduledStep, batch: Batch, now: float, duration: float, num_accepted: int
    ) -> Report:
        running: Counter[str] = Counter()
        waiting: Counter[str] = Counter()
        usage: dict[str, float] = {}
        if now - self._last_report >= REPORT_INTERVAL or not self.has_work:
            self._last_report = now
            running.update(dict.fromkeys(self._served, 0))
            waiting.update(dict.fromkeys(self._served, 0))
            for lane in self._scheduler.lanes.every:
                running.update(s.request.model for s in lane.running)
                waiting.update(s.request.model for s in lane.waiting)
            waiting.update(s.request.model for s in self._compiler.waiting)
            total = max(1, self._blocks.num_blocks)
            usage = {model: self._blocks.num_held(model) / total for model in self._runners}
        return Report(
            model=step.model,
            phase="encode" if batch.decode is None else "decode" if step.num_decoding else "prefill",
            duration_s=duration,
            batch_size=len(step.sequences),
            batch_tokens=batch.num_tokens,
            padding_tokens=batch.num_padding,
            drafted_tokens=step.num_drafted,
            accepted_tokens=num_accepted,
            preemptions=len(step.preempted),
            running=running,
            waiting=waiting,
            kv_usage=usage,
        )


def _begin(sequences: Iterable[Sequence], now: float) -> list[int]:
    """Notes who is computed for the first time; their ids."""
    begun = []
    for sequence in sequences:
        if sequence.first_scheduled is None:
            sequence.first_scheduled = now
            begun.append(sequence.id)
    return begun
