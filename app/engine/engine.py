"""The engine: one loop over all served models. `step()` names the stages; no threads, no asyncio."""

import logging
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from app.engine.batch import Batch, build_batch
from app.engine.block_manager import BlockManager, num_blocks
from app.engine.kv_cache import Arena
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
from app.engine.rules import make_rules
from app.engine.runner import EncoderOutput, Runner
from app.engine.sampler import SampleRow, Samples, sample
from app.engine.sampling_params import ParameterError
from app.engine.scheduler import ScheduledStep, Scheduler
from app.engine.sequence import Sequence
from model.config import TransformerConfig

logger = logging.getLogger(__name__)

REPORT_INTERVAL = 0.1
"""Seconds between reports of the gauges, which cost a walk over all sequences."""

HEADS_FOR: Mapping[str, tuple[str, ...]] = {
    "class": ("sequence-class",),
    "token-class": ("token-class",),
    "span": ("span",),
    "mask": ("masked-lm", "pretraining"),
    "next-sentence": ("next-sentence", "pretraining"),
}
"""Which heads can give an output; what is not listed needs none."""


class RequestError(ValueError):
    """A request that this engine can never serve; the message is for the client."""


@dataclass(frozen=True)
class Served:
    """A served name: the model that computes it, and the adapter it goes through."""

    model: str
    adapter: str | None
    config: TransformerConfig
    max_model_len: int


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
        prefix_cache: bool = True,
    ) -> None:
        self.infos = infos
        self._runners, self._served, self._arena = runners, served, arena
        self._blocks = BlockManager(arena.num_pages)
        sizes = {name: runner.block_size for name, runner in runners.items()}
        self._scheduler = Scheduler(sizes, self._blocks, token_budget, max_num_seqs, prefix_cache)
        self._last_report = 0.0

    @property
    def has_work(self) -> bool:
        """Would `step` compute anything?"""
        return self._scheduler.has_work

    def add(self, request: GenerateRequest | EncodeRequest) -> None:
        """Puts a request in line. Raises RequestError where it can never be served."""
        if request.model not in self._served:
            raise RequestError(f"unknown model {request.model!r}")
        served = self._served[request.model]
        if isinstance(request, EncodeRequest):
            sequence = self._encoder_sequence(request, served)
        else:
            sequence = self._decoder_sequence(request, served)
        self._scheduler.add(sequence)

    def abort(self, ids: Iterable[int]) -> None:
        """Ends these requests and frees what they hold; unknown ones are no error."""
        self._scheduler.abort(ids)

    def step(self) -> StepOutputs:
        """Schedule, batch, run, sample, commit: one step of one model.

        A fault of ours in between fails the sequences of this step and leaves the others alone.
        """
        step = self._scheduler.schedule()
        if step is None:
            return StepOutputs([])
        try:
            return self._run(step)
        except Exception:
            logger.exception("a step of %s failed with %d sequences", step.model, len(step.sequences))
            return StepOutputs([self._fail(sequence) for sequence in step.sequences])

    def _run(self, step: ScheduledStep) -> StepOutputs:
        started = time.perf_counter()
        for sequence in step.sequences:
            if sequence.first_scheduled is None:
                sequence.first_scheduled = started
        runner = self._runners[step.model]
        if step.stale_blocks:
            self._arena.clear(step.stale_blocks)
        batch = build_batch(step, runner.block_size, runner.device, runner.is_in_place)
        logits, encoded = runner.run(batch)
        samples = None if logits is None else sample(logits.float(), self._sample_rows(batch))
        self._scheduler.commit(step)
        outputs = self._commit(batch, samples, encoded)
        duration = time.perf_counter() - started
        self._scheduler.charge(step.model, duration)
        return StepOutputs(outputs, self._report(step, batch, duration))

    def _fail(self, sequence: Sequence) -> Failed:
        self._scheduler.finish(sequence, "error")
        return Failed(sequence.id, "internal", "the engine failed to compute this request")

    def _commit(
        self, batch: Batch, samples: Samples | None, encoded: list[EncoderOutput]
    ) -> list[Tokens | Encoded | Failed]:
        outputs: list[Tokens | Encoded | Failed] = []
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
        if samples is not None:
            for i, sequence in enumerate(batch.complete):
                outputs.append(self._append(sequence, samples.token_ids[i], samples.logprobs[i]))
        return outputs

    def _append(self, sequence: Sequence, token_id: int, logprobs: TokenLogprobs | None) -> Tokens:
        """One token more. An end token is not handed out; a forced one is the limit's doing, not the model's."""
        eos_token_ids = self._served[sequence.request.model].config.eos_token_ids
        ends = token_id in _generate_request(sequence).params.end_token_ids(eos_token_ids)
        is_forced = sequence.rules is not None and sequence.rules.forced(sequence.num_completion_tokens)
        sequence.token_ids.append(token_id)
        if ends and not is_forced:
            self._scheduler.finish(sequence, "stop")
        elif sequence.num_completion_tokens >= sequence.max_tokens:
            self._scheduler.finish(sequence, "length")
        is_first = sequence.num_completion_tokens == 1
        return Tokens(
            id=sequence.id,
            token_ids=[] if ends else [token_id],
            logprobs=None if logprobs is None or ends else [logprobs],
            finish_reason=sequence.finish_reason,
            cached_tokens=(sequence.num_cached_tokens or 0) if is_first else 0,
            queue_duration=_waited(sequence) if is_first else None,
        )

    def _encoder_sequence(self, request: EncodeRequest, served: Served) -> Sequence:
        heads = HEADS_FOR.get(request.output)
        kinds = ("encoder", "encoder-decoder") if request.output == "class" else ("encoder",)
        if served.config.kind not in kinds or (heads is not None and served.config.head not in heads):
            raise RequestError(f"model {request.model!r} has no output {request.output!r}")
        if not 0 < len(request.ids) <= served.max_model_len:
            raise RequestError(f"{len(request.ids)} tokens, but the model takes 1 to {served.max_model_len}")
        echo: list[int] = []
        if served.config.kind == "encoder-decoder":
            echo = _echo(request.ids, served.config)
            self._check_room(len(echo), len(request.ids), served)
        return Sequence(
            request=request,
            model=served.model,
            adapter=served.adapter,
            arrival=time.perf_counter(),
            source_ids=request.ids,
            token_ids=echo,
            num_prompt_tokens=len(echo),
        )

    def _decoder_sequence(self, request: GenerateRequest, served: Served) -> Sequence:
        config, limit = served.config, served.max_model_len
        if config.head != "lm":
            raise RequestError(f"model {request.model!r} generates nothing")
        try:
            request.params.check_vocabulary(config.vocab_size)
        except ParameterError as fault:
            raise RequestError(str(fault)) from None
        if not 0 < len(request.prompt_ids) <= limit:
            raise RequestError(f"{len(request.prompt_ids)} prompt tokens, but the model takes 1 to {limit}")
        source: list[int] = []
        tokens = list(request.prompt_ids)
        forced = [] if request.params.forced_bos_token is None else [request.params.forced_bos_token]
        if config.kind == "encoder-decoder":
            source, tokens = tokens, [config.decoder_start_token_id or 0, *forced]
        elif forced:
            raise RequestError("forced_bos_token is for encoder-decoders; a decoder's prompt can end with it")
        max_tokens = min(request.params.max_tokens, limit - len(tokens))
        if max_tokens < 1:
            raise RequestError(f"{len(tokens)} prompt tokens leave no room in a context of {limit}")
        self._check_room(len(tokens) + max_tokens, len(source), served)
        return Sequence(
            request=request,
            model=served.model,
            adapter=served.adapter,
            arrival=time.perf_counter(),
            source_ids=source,
            token_ids=tokens,
            num_prompt_tokens=len(tokens),
            max_tokens=max_tokens,
            rules=make_rules(request.params, max_tokens),
        )

    def _check_room(self, num_tokens: int, num_source: int, served: Served) -> None:
        """Raises RequestError where not even the empty cache could hold a sequence."""
        size = self._runners[served.model].block_size
        if num_blocks(num_tokens, size) + num_blocks(num_source, size) > self._blocks.num_blocks:
            raise RequestError(
                f"the cache holds {self._blocks.num_blocks * size} tokens, which is too few for this"
            )

    def _sample_rows(self, batch: Batch) -> list[SampleRow]:
        rows = []
        for sequence in batch.complete:
            request = _generate_request(sequence)
            rows.append(
                SampleRow(
                    params=request.params,
                    index=request.index,
                    token_ids=sequence.token_ids,
                    num_prompt_tokens=sequence.num_prompt_tokens,
                    eos_token_ids=self._served[request.model].config.eos_token_ids,
                    rules=sequence.rules,
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


def _echo(ids: list[int], config: TransformerConfig) -> list[int]:
    """What the decoder reads to classify a text: the text one place later, to the last end token's place."""
    ends = [place for place, token_id in enumerate(ids) if token_id in config.eos_token_ids]
    if not ends:
        raise RequestError("a text to classify must hold an end token")
    return [config.decoder_start_token_id or 0, *ids][: ends[-1] + 1]


def _generate_request(sequence: Sequence) -> GenerateRequest:
    assert isinstance(sequence.request, GenerateRequest)
    return sequence.request


def _waited(sequence: Sequence) -> float:
    """Seconds from arrival until first scheduled."""
    return (sequence.first_scheduled or sequence.arrival) - sequence.arrival
