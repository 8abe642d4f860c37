"""The engine: one loop over all served models. `step()` names the stages; no threads, no asyncio."""

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping

from app.engine.admission import Limits, RequestError, Served, make_sequence
from app.engine.batch import Batch, build_batch
from app.engine.block_manager import BlockManager
from app.engine.compiler import Compiler
from app.engine.kv_cache import Arena
from app.engine.masks import Masks
from app.engine.protocol import (
    Encoded,
    EncodeRequest,
    Failed,
    GenerateRequest,
    ModelInfo,
    Report,
    StepOutputs,
    TokenLogprobs,
    Tokens,
)
from app.engine.runner import EncoderOutput, Runner
from app.engine.sampler import NO_TOKEN, SampleRow, Samples, sample
from app.engine.scheduler import ScheduledStep, Scheduler
from app.engine.sequence import Sequence

logger = logging.getLogger(__name__)

REPORT_INTERVAL = 0.1
"""Seconds between reports of the gauges, which cost a walk over all sequences."""


class Engine:
    """Sequences in, tokens and encoder outputs out, a step at a time."""

    def __init__(
        self,
        runners: Mapping[str, Runner],
        served: Mapping[str, Served],
        infos: list[ModelInfo],
        arena: Arena,
        token_budget: int,
        max_num_seqs: int,
        compiler: Compiler,
    ) -> None:
        self.infos = infos
        self._runners, self._served, self._arena = runners, served, arena
        self._blocks = BlockManager(arena.num_pages)
        sizes = {name: runner.block_size for name, runner in runners.items()}
        self._scheduler = Scheduler(sizes, self._blocks, token_budget, max_num_seqs)
        self._compiler, self._masks = compiler, Masks()
        self._last_report = 0.0

    @property
    def has_work(self) -> bool:
        """Would `step` compute anything?"""
        return self._scheduler.has_work or self._compiler.has_news

    def when_ready(self, wake: Callable[[], object]) -> None:
        """Has `wake` called, from any thread, when `has_work` turns true by itself: a constraint is compiled."""
        self._compiler.wake = wake

    def add(self, request: GenerateRequest | EncodeRequest) -> None:
        """Puts a request in line. Raises RequestError where it can never be served."""
        if request.model not in self._served:
            raise RequestError(f"unknown model {request.model!r}")
        served = self._served[request.model]
        limits = Limits(self._runners[served.model].block_size, self._blocks.num_blocks)
        sequence = make_sequence(request, served, limits)
        if isinstance(request, GenerateRequest) and request.constraint is not None:
            self._compiler.hold(sequence)
        else:
            self._scheduler.add(sequence)

    def abort(self, ids: Iterable[int]) -> None:
        """Ends these requests and frees what they hold; unknown ones are no error."""
        ids = list(ids)
        self._compiler.drop(ids)
        self._scheduler.abort(ids)

    def step(self) -> StepOutputs:
        """Schedule, batch, run, sample, commit: one step of one model.

        A fault of ours in between fails the sequences of this step and leaves the others alone.
        """
        compiled, refused = self._compiler.take()
        for sequence in compiled:
            self._scheduler.add(sequence)
        step = self._scheduler.schedule()
        if step is None:
            return StepOutputs([*refused])
        try:
            done = self._run(step)
        except Exception:
            logger.exception("a step of %s failed with %d sequences", step.model, len(step.sequences))
            done = StepOutputs([self._fail(sequence) for sequence in step.sequences])
        return StepOutputs([*refused, *done.outputs], done.report)

    def _run(self, step: ScheduledStep) -> StepOutputs:
        started = time.perf_counter()
        runner = self._runners[step.model]
        if step.stale_blocks:
            self._arena.clear(step.stale_blocks)
        batch = build_batch(step, runner.block_size, runner.device, runner.is_in_place)
        logits, encoded = runner.run(batch)
        samples = None if logits is None else sample(logits.float(), self._sample_rows(batch))
        outputs = self._commit(batch, samples, encoded, started)
        duration = time.perf_counter() - started
        self._scheduler.charge(step.model, duration)
        return StepOutputs(outputs, self._report(step, batch, duration))

    def _fail(self, sequence: Sequence) -> Failed:
        self._scheduler.finish(sequence, "error")
        return Failed(sequence.id, "internal", "the engine failed to compute this request")

    def _commit(
        self, batch: Batch, samples: Samples | None, encoded: list[EncoderOutput], now: float
    ) -> list[Tokens | Encoded | Failed]:
        outputs: list[Tokens | Encoded | Failed] = []
        for sequence in batch.encoded:
            sequence.is_encoded = True
        if encoded:
            asked = batch.encoded if batch.decode is None else batch.decoded
            for sequence, output in zip(asked, encoded, strict=True):
                values = output.values.float().cpu().contiguous()
                outputs.append(
                    Encoded(
                        id=sequence.id,
                        shape=list(values.shape),
                        data=values.numpy().tobytes(),
                        ids=output.ids,
                        queue_duration=_waited(sequence, now),
                    )
                )
                self._scheduler.finish(sequence, "stop")
        if samples is not None:
            for i, sequence in enumerate(batch.decoded):
                outputs.append(self._append(sequence, samples.token_ids[i], samples.logprobs[i], now))
        return outputs

    def _append(
        self, sequence: Sequence, token_id: int, logprobs: TokenLogprobs | None, now: float
    ) -> Tokens | Failed:
        """One token more. An end token is not handed out; a forced one is the limit's doing, not the model's."""
        matcher = sequence.matcher
        if token_id == NO_TOKEN and matcher is not None:
            self._scheduler.finish(sequence, matcher.finish_reason)
            return matcher.end(sequence.id, _waited(sequence, now))
        eos_token_ids = self._served[sequence.request.model].config.eos_token_ids
        ends = token_id in _generate_request(sequence).params.end_token_ids(eos_token_ids)
        is_forced = sequence.rules is not None and sequence.rules.forced(sequence.num_completion_tokens)
        sequence.num_computed_tokens = len(sequence.token_ids)
        sequence.token_ids.append(token_id)
        if matcher is not None and not ends:
            matcher.advance(token_id)
        if (ends and not is_forced) or (matcher is not None and matcher.is_done):
            self._scheduler.finish(sequence, "stop")
        elif sequence.num_completion_tokens >= sequence.max_tokens:
            self._scheduler.finish(sequence, "length")
        return Tokens(
            id=sequence.id,
            token_ids=[] if ends else [token_id],
            logprobs=None if logprobs is None or ends else [logprobs],
            finish_reason=sequence.finish_reason,
            queue_duration=_waited(sequence, now),
        )

    def _sample_rows(self, batch: Batch) -> list[SampleRow]:
        rows = []
        self._masks.fill([s.matcher for s in batch.decoded if s.matcher is not None])
        for sequence in batch.decoded:
            request, matcher = _generate_request(sequence), sequence.matcher
            eos_token_ids = self._served[request.model].config.eos_token_ids
            ends = request.params.end_token_ids(eos_token_ids)
            rows.append(
                SampleRow(
                    params=request.params,
                    index=request.index,
                    token_ids=sequence.token_ids,
                    num_prompt_tokens=sequence.num_prompt_tokens,
                    eos_token_ids=eos_token_ids,
                    rules=sequence.rules,
                    allowed=None if matcher is None else matcher.allowed(ends, eos_token_ids),
                )
            )
        return rows

    def _report(self, step: ScheduledStep, batch: Batch, duration: float) -> Report:
        now = time.perf_counter()
        running: Counter[str] = Counter()
        waiting: Counter[str] = Counter()
        usage: dict[str, float] = {}
        if now - self._last_report >= REPORT_INTERVAL or not self.has_work:
            self._last_report = now
            running.update(dict.fromkeys(self._served, 0))
            waiting.update(dict.fromkeys(self._served, 0))
            for lane in self._scheduler.lanes.values():
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
            preemptions=step.num_preempted,
            running=running,
            waiting=waiting,
            kv_usage=usage,
        )


def _generate_request(sequence: Sequence) -> GenerateRequest:
    assert isinstance(sequence.request, GenerateRequest)
    return sequence.request


def _waited(sequence: Sequence, now: float) -> float | None:
    """Seconds from arrival until first scheduled, told once."""
    if sequence.first_scheduled is not None:
        return None
    sequence.first_scheduled = now
    return now - sequence.arrival
