"""What a step makes of its sequences: tokens appended, sequences ended, searches a step further, answers to be sent."""

import logging
from collections.abc import Mapping
from itertools import islice

import torch
from torch import Tensor

from app.engine.admission import Served
from app.engine.batch import Batch, LogitRows
from app.engine.beam import advance, continuations
from app.engine.drafting import Drafting
from app.engine.logprobs import logprobs_of
from app.engine.masks import Masks
from app.engine.protocol import Answer, Encoded, Failed, GenerateRequest, Hypotheses, TokenLogprobs, Tokens
from app.engine.runner import EncoderOutput
from app.engine.sampler import NO_TOKEN, SampleRow, sample
from app.engine.scheduler import Scheduler
from app.engine.sequence import Sequence

_log = logging.getLogger(__name__)


class Committer:
    """Samples, appends and ends. Knows neither the models nor the cache."""

    def __init__(self, served: Mapping[str, Served], scheduler: Scheduler, drafting: Drafting) -> None:
        self._served, self._scheduler, self._drafting = served, scheduler, drafting
        self._masks = Masks()

    def commit(self, batch: Batch, logits: Tensor | None, encoded: list[EncoderOutput]) -> list[Answer]:
        """`logits` [rows of the batch's `logit_rows`, vocab_size], or the outputs of those that generate nothing."""
        outputs: list[Answer] = []
        if encoded:
            asked = batch.encoded if batch.decode is None else [rows.sequence for rows in batch.logit_rows]
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
            outputs += self._next_tokens(batch.logit_rows, logits.float())
        return outputs

    def _next_tokens(self, logit_rows: list[LogitRows], logits: Tensor) -> list[Answer]:
        """What is asked about prompts is noted; then each sequence by itself says something, each search goes on."""
        if any(rows.num_told for rows in logit_rows):
            logits = self._tell_prompts(logit_rows, logits)
        going_on = [(rows.sequence, rows.num_next) for rows in logit_rows if rows.num_next]
        owners = [sequence for sequence, count in going_on for _ in range(count)]
        beams = [i for i, sequence in enumerate(owners) if sequence.group is not None]
        outputs: list[Answer] = []
        if beams:
            outputs += self._search([owners[i] for i in beams], logits[beams])
            logits = logits[[i for i, sequence in enumerate(owners) if sequence.group is None]]
        alone = [(sequence, count) for sequence, count in going_on if sequence.group is None]
        if alone:
            self._masks.fill([s.matcher for s, _ in alone if s.matcher is not None])
            outputs += self._speak(alone, logits)
        return outputs

    def _speak(self, going_on: list[tuple[Sequence, int]], logits: Tensor) -> list[Answer]:
        """What each says next, by its rows of `logits`. Where all cannot be sampled at once, each is by itself."""
        rows = [self._sample_row(s, drafted) for s, count in going_on for drafted in range(count)]
        try:
            samples = sample(logits, rows)
        except Exception:
            _log.exception("%d rows could not be sampled", len(rows))
            if len(going_on) == 1:
                return [self.fail(going_on[0][0])]
            parts = torch.split(logits, [count for _, count in going_on])
            alone = [self._speak([one], part) for one, part in zip(going_on, parts, strict=True)]
            return [answer for answers in alone for answer in answers]
        said = iter(zip(samples.token_ids, samples.logprobs, strict=True))
        return [self._say_or_fail(s, list(islice(said, count)), len(rows)) for s, count in going_on]

    def _say_or_fail(
        self, sequence: Sequence, said: list[tuple[int, TokenLogprobs | None]], num_rows: int
    ) -> Tokens | Failed:
        try:
            return self._say(sequence, said, num_rows)
        except Exception:
            _log.exception("request %d could not go on", sequence.id)
            return self.fail(sequence)

    def fail(self, sequence: Sequence) -> Failed:
        """Ends a sequence, or all beams of its group, for a fault of ours."""
        self._scheduler.finish(sequence, "error")
        return Failed(sequence.id, "internal", "the engine failed to compute this request")

    def _tell_prompts(self, logit_rows: list[LogitRows], logits: Tensor) -> Tensor:
        """Notes the log-probabilities of prompts; returns the other rows."""
        left = []
        sizes = [count for rows in logit_rows for count in (rows.num_told, rows.num_next)]
        pieces = torch.split(logits, sizes)
        for rows, told, others in zip(logit_rows, pieces[::2], pieces[1::2], strict=True):
            left.append(others)
            sequence, asked = rows.sequence, rows.sequence.params.prompt_logprobs
            if rows.num_told and asked is not None:
                first = 1 + len(sequence.prompt_logprobs)
                token_ids = sequence.token_ids[first : first + rows.num_told]
                sequence.prompt_logprobs += logprobs_of(told, token_ids, [asked] * len(token_ids))
        return torch.cat(left)

    def _search(self, beams: list[Sequence], logits: Tensor) -> list[Answer]:
        """The beams of each group are all here. A search that is done ends its group and is the answer."""
        rows = [self._sample_row(sequence, 0) for sequence in beams]
        found = dict(zip(map(id, beams), continuations(logits, rows, beams), strict=True))
        outputs: list[Answer] = []
        for group in {id(beam.group): beam.group for beam in beams}.values():
            assert group is not None
            first = group.members[0]
            try:
                advance(group, [found[id(member)] for member in group.members], self._scheduler)
            except Exception:
                _log.exception("request %d could not go on", first.id)
                outputs.append(self.fail(first))
                continue
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
            prompt_logprobs=sequence.prompt_logprobs if is_first and sequence.tells_prompt else None,
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


def _waited(sequence: Sequence) -> float:
    """Seconds from arrival until first scheduled."""
    return (sequence.first_scheduled or sequence.arrival) - sequence.arrival
