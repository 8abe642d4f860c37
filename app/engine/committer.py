"""What a step makes of its sequences: tokens appended, sequences ended, searches a step further, answers to be sent."""

import logging
from collections.abc import Sequence as ListLike

from app.engine.batch import Batch
from app.engine.beam import Continuations, advance
from app.engine.choosing import Choices, Said
from app.engine.drafting import Drafting
from app.engine.protocol import Answer, Encoded, Failed, Hypotheses, Tokens
from app.engine.runner import EncoderOutput
from app.engine.sampler import NO_TOKEN
from app.engine.scheduler import Scheduler
from app.engine.sequence import Sequence

_log = logging.getLogger(__name__)


class Committer:
    """Appends and ends. Knows neither the models nor the cache."""

    def __init__(self, scheduler: Scheduler, drafting: Drafting) -> None:
        self._scheduler, self._drafting = scheduler, drafting

    def commit(self, batch: Batch, choices: Choices, encoded: ListLike[EncoderOutput]) -> list[Answer]:
        """`encoded` are the outputs of those that generate nothing."""
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
        outputs += self._search(choices.beams)
        outputs += [self._say_or_fail(one, said, choices.num_sampled) for one, said in choices.alone]
        outputs += [self.fail(sequence) for sequence in choices.failed]
        return outputs

    def _say_or_fail(self, sequence: Sequence, said: list[Said], num_rows: int) -> Tokens | Failed:
        try:
            return self._say(sequence, said, num_rows)
        except Exception:
            _log.exception("request %d could not go on", sequence.id)
            return self.fail(sequence)

    def fail(self, sequence: Sequence) -> Failed:
        """Ends a sequence, or all beams of its group, for a fault of ours."""
        self._scheduler.finish(sequence, "error")
        return Failed(sequence.id, "internal", "the engine failed to compute this request")

    def _search(self, beams: ListLike[tuple[Sequence, Continuations]]) -> list[Answer]:
        """The beams of each group are all here. A search that is done ends its group and is the answer."""
        found = {id(beam): offers for beam, offers in beams}
        outputs: list[Answer] = []
        for group in {id(beam.group): beam.group for beam, _ in beams}.values():
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

    def _say(self, sequence: Sequence, said: list[Said], num_rows: int) -> Tokens | Failed:
        """The next token, and those that its draft had right: what was sampled after a wrong one is void.

        An end token is not handed out; a forced one is the limit's doing, not the model's. Where nothing may follow
        what is right of a draft, the next step finds that again, from the last of these tokens.
        """
        matcher, is_first = sequence.matcher, sequence.num_completion_tokens == 0
        waited = _waited(sequence) if is_first else None
        if matcher is not None and said[0][0] == NO_TOKEN:
            self._scheduler.finish(sequence, matcher.finish_reason)
            return matcher.end(sequence.id, waited)
        draft, num_held = sequence.draft.cut(len(said) - 1), 0
        handed: list[Said] = []
        for (token_id, logprobs), guess in zip(said, [*draft.token_ids, None], strict=True):
            if token_id == NO_TOKEN:
                num_held -= 1
                break
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
        ends = token_id in sequence.params.end_token_ids(sequence.eos_token_ids)
        is_forced = sequence.rules is not None and sequence.rules.forced(sequence.num_completion_tokens)
        sequence.token_ids.append(token_id)
        if matcher is not None and not ends:
            matcher.advance(token_id)
        if (ends and not is_forced) or (matcher is not None and matcher.is_done):
            self._scheduler.finish(sequence, "stop")
        elif sequence.num_completion_tokens >= sequence.max_tokens:
            self._scheduler.finish(sequence, "length")
        return not ends


def _waited(sequence: Sequence) -> float:
    """Seconds from arrival until first scheduled."""
    return (sequence.first_scheduled or sequence.arrival) - sequence.arrival
