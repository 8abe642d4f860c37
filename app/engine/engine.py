"""The engine: one loop over all served models. `step()` names the stages; no threads, no asyncio."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import islice

from torch import Tensor

from app.engine.admission import Limits, RequestError, Served, make_sequence
from app.engine.batch import Batch, build_batch
from app.engine.beam import advance, continuations
from app.engine.compiler import Compiler
from app.engine.drafting import Drafting
from app.engine.kv_cache import Arena
from app.engine.masks import Masks
from app.engine.pace import Pace
from app.engine.protocol import (
    Answer,
    Encoded,
    EncodeRequest,
    Failed,
    GenerateRequest,
    Hypotheses,
    ModelInfo,
    Report,
    StepOutputs,
    TokenLogprobs,
    Tokens,
)
from app.engine.runner import EncoderOutput, Runner
from app.engine.sampler import NO_TOKEN, SampleRow, sample
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
        scheduler: Scheduler,
        compiler: Compiler,
        pace: Pace | None,
        speculates: bool,
        clock: Callable[[], float],
    ) -> None:
        self.infos = infos
        self._runners, self._served, self._arena = runners, served, arena
        self._scheduler, self._blocks = scheduler, scheduler.blocks
        self._compiler, self._masks = compiler, Masks()
        self._pace, self._clock = pace, clock
        self._drafting = Drafting(runners if speculates else ())
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
        size = self._runners[served.model].block_size
        limits = Limits(size, self._blocks.num_blocks, self._scheduler.max_num_seqs)
        sequence = make_sequence(request, served, limits, self._clock())
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
        step = self._scheduler.schedule(self._prompt_budgets())
        if step is None:
            return StepOutputs([*refused])
        try:
            done = self._run(step)
        except Exception:
            logger.exception("a step of %s failed with %d sequences", step.model, len(step.sequences))
            failed = {sequence.id: sequence for sequence in step.sequences}
            done = StepOutputs([self._fail(sequence) for sequence in failed.values()])
        return StepOutputs([*refused, *done.outputs], done.report)

    def _prompt_budgets(self) -> dict[str, int] | None:
        """No limit for a request that is alone: nobody waits for its steps to end."""
        if self._pace is None or self._scheduler.num_requests == 1:
            return None
        lanes = self._scheduler.lanes.items()
        return {model: self._pace.budget(model, bool(lane.running)) for model, lane in lanes}

    def _run(self, step: ScheduledStep) -> StepOutputs:
        started, held_before = self._clock(), self._drafting.num_held
        for sequence in step.sequences:
            if sequence.first_scheduled is None:
                sequence.first_scheduled = started
        runner = self._runners[step.model]
        if step.stale_blocks:
            self._arena.clear(step.stale_blocks)
        if step.copies:
            self._arena.copy(step.copies)
        batch = build_batch(step, runner.block_size, runner.device, runner.is_in_place)
        logits, encoded = runner.run(batch)
        self._scheduler.commit(step)
        outputs = self._commit(batch, logits, encoded)
        duration = self._clock() - started
        self._scheduler.charge(step.model, duration)
        num_prompt = batch.num_tokens - step.num_decoding - step.num_drafted
        if self._pace is not None:
            self._pace.note(step.model, step.num_decoding, num_prompt, duration)
        if not num_prompt:
            self._drafting.note(step.model, batch.num_tokens, duration)
        return StepOutputs(
            outputs, self._report(step, batch, duration, self._drafting.num_held - held_before)
        )

    def _fail(self, sequence: Sequence) -> Failed:
        self._scheduler.finish(sequence, "error")
        return Failed(sequence.id, "internal", "the engine failed to compute this request")

    def _commit(self, batch: Batch, logits: Tensor | None, encoded: list[EncoderOutput]) -> list[Answer]:
        outputs: list[Answer] = []
        if encoded:
            asked = batch.encoded if batch.decode is None else batch.complete
            for sequence, output in zip(asked, encoded, strict=True):
                values = output.values.float().cpu().contiguous()
                outputs.append(
                    Encoded(
                        id=sequence.id,
                        shape=list(values.shape),
                        data=values.numpy().tobytes(),
                        ids=output.ids,
                        cached_tokens=sequence.num_cached_tokens or 0,
                        queue_duration=_waited(sequence),
                    )
                )
                self._scheduler.finish(sequence, "stop")
        if logits is not None:
            outputs += self._next_tokens(batch.complete, batch.num_rows, logits.float())
        return outputs

    def _next_tokens(self, complete: list[Sequence], num_rows: list[int], logits: Tensor) -> list[Answer]:
        """What each sequence says by itself, and a step for each search; `logits` [sum of num_rows, vocab_size]."""
        owners = [s for s, count in zip(complete, num_rows, strict=True) for _ in range(count)]
        beams = [i for i, sequence in enumerate(owners) if sequence.group is not None]
        outputs: list[Answer] = []
        if beams:
            outputs += self._search([owners[i] for i in beams], logits[beams])
            logits = logits[[i for i, sequence in enumerate(owners) if sequence.group is None]]
        alone = [(s, count) for s, count in zip(complete, num_rows, strict=True) if s.group is None]
        if alone:
            self._masks.fill([s.matcher for s, _ in alone if s.matcher is not None])
            rows = [self._sample_row(s, drafted) for s, count in alone for drafted in range(count)]
            samples = sample(logits, rows)
            said = iter(zip(samples.token_ids, samples.logprobs, strict=True))
            outputs += [self._say(s, list(islice(said, count)), len(rows)) for s, count in alone]
        return outputs

    def _search(self, beams: list[Sequence], logits: Tensor) -> list[Answer]:
        """The beams of each group are all here. A search that is done ends its group and is the answer."""
        rows = [self._sample_row(sequence, 0) for sequence in beams]
        found = dict(zip(map(id, beams), continuations(logits, rows, beams), strict=True))
        outputs: list[Answer] = []
        for group in {id(beam.group): beam.group for beam in beams}.values():
            assert group is not None
            first = group.members[0]
            advance(group, [found[id(member)] for member in group.members], self._scheduler)
            if group.search.is_done:
                self._scheduler.finish(first, "stop")
                outputs.append(
                    Hypotheses(
                        id=first.id,
                        best=group.search.results[: first.params.num_return_sequences],
                        cached_tokens=first.num_cached_tokens or 0,
                        queue_duration=_waited(first),
                    )
                )
        return outputs

    def _say(
        self, sequence: Sequence, said: list[tuple[int, TokenLogprobs | None]], num_rows: int
    ) -> Tokens | Failed:
        """The next token, and those that its draft had right: what was sampled after a wrong one is void.

        An end token is not handed out; a forced one is the limit's doing, not the model's.
        """
        matcher, is_first = sequence.matcher, sequence.num_completion_tokens == 0
        waited = _waited(sequence) if is_first else None
        if matcher is not None and said[0][0] == NO_TOKEN:
            self._scheduler.finish(sequence, matcher.finish_reason)
            return matcher.end(sequence.id, waited)
        draft, num_held = sequence.draft.cut(len(said) - 1), 0
        handed: list[tuple[int, TokenLogprobs | None]] = []
        for (token_id, logprobs), guess in zip(said, [*draft.token_ids, None], strict=True):
            if self._append(sequence, token_id):
                handed.append((token_id, logprobs))
            if token_id != guess or sequence.finish_reason is not None:
                break
            num_held += 1
        sequence.num_computed_tokens += num_held
        self._drafting.renew(sequence, draft, num_held, num_rows)
        told = [logprobs for _, logprobs in handed if logprobs is not None]
        return Tokens(
            id=sequence.id,
            token_ids=[token_id for token_id, _ in handed],
            logprobs=told or None,
            finish_reason=sequence.finish_reason,
            cached_tokens=(sequence.num_cached_tokens or 0) if is_first else 0,
            queue_duration=waited,
        )

    def _append(self, sequence: Sequence, token_id: int) -> bool:
        """One token more, which may end the sequence; whether it is handed out."""
        matcher = sequence.matcher
        ends = token_id in sequence.params.end_token_ids(self._eos_token_ids(sequence))
        is_forced = sequence.rules is not None and sequence.rules.forced(sequence.num_completion_tokens)
        sequence.token_ids.append(token_id)
        if matcher is not None and not ends:
            matcher.advance(token_id)
        if (ends and not is_forced) or (matcher is not None and matcher.is_done):
            self._scheduler.finish(sequence, "stop")
        elif sequence.num_completion_tokens >= sequence.max_tokens:
            self._scheduler.finish(sequence, "length")
        return not ends

    def _eos_token_ids(self, sequence: Sequence) -> tuple[int, ...]:
        return self._served[sequence.request.model].config.eos_token_ids

    def _sample_row(self, sequence: Sequence, num_drafted: int) -> SampleRow:
        """Of the token behind so many of its draft. A constrained sequence's mask is filled by now."""
        request, matcher = sequence.request, sequence.matcher
        assert isinstance(request, GenerateRequest)
        eos_token_ids = self._eos_token_ids(sequence)
        ends = request.params.end_token_ids(eos_token_ids)
        return SampleRow(
            params=request.params,
            index=request.index,
            token_ids=sequence.token_ids,
            num_prompt_tokens=sequence.num_prompt_tokens,
            eos_token_ids=eos_token_ids,
            rules=sequence.rules,
            num_drafted=num_drafted,
            allowed=None if matcher is None else matcher.allowed(ends, eos_token_ids),
        )

    def _report(self, step: ScheduledStep, batch: Batch, duration: float, num_accepted: int) -> Report:
        now = self._clock()
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
            drafted_tokens=step.num_drafted,
            accepted_tokens=num_accepted,
            preemptions=step.num_preempted,
            running=running,
            waiting=waiting,
            kv_usage=usage,
        )


def _waited(sequence: Sequence) -> float:
    """Seconds from arrival until first scheduled."""
    return (sequence.first_scheduled or sequence.arrival) - sequence.arrival
