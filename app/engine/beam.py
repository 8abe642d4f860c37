"""Beams in the engine: what a step's logits offer them, and how their sequences fork and end.

Which continuations go on and which are finished is `model.beam_search`'s to say.
"""

from collections.abc import Sequence as ListLike
from dataclasses import dataclass

import torch
from torch import Tensor

from app.engine.logprobs import largest, log_softmax_
from app.engine.protocol import Hypothesis, TokenLogprobs
from app.engine.sampler import SampleRow, adjust
from app.engine.scheduler import Scheduler
from app.engine.sequence import BeamGroup, Sequence
from model.beam_search import Candidate


@dataclass(frozen=True, slots=True)
class Continuations:
    """Of one beam: (token id, sum of its log-probabilities, the model's own for the token), best first; and the
    likeliest tokens of the unchanged logits, where asked for."""

    found: list[tuple[int, float, float]]
    top: list[tuple[int, float]]


@torch.inference_mode()
def continuations(
    logits: Tensor, rows: ListLike[SampleRow], beams: ListLike[Sequence]
) -> list[Continuations]:
    """Of each row of `logits` [R, V] float32, which are given away, as many as its search looks at.

    Penalties and rules change log-probabilities, as in `transformers`, not logits. A forbidden token's is minus
    infinity; it is found all the same where nothing else is left.
    """
    raw = log_softmax_(logits)
    groups = [group for beam in beams if (group := beam.group) is not None]
    scores = [
        group.search.scores[group.members.index(beam)] for beam, group in zip(beams, groups, strict=True)
    ]
    counts = [group.search.settings.num_candidates for group in groups]
    best = largest(adjust(raw, rows), counts)
    # the sum of a beam is the same for all of its row: only what is found needs it
    before = [score for score, found in zip(scores, best, strict=True) for _ in found]
    added = [logprob for found in best for _, logprob in found]
    sums = iter((torch.tensor(added, dtype=raw.dtype) + torch.tensor(before, dtype=raw.dtype)).tolist())
    logprobs = iter(_at(raw, [[token_id for token_id, _ in found] for found in best]))
    tops = largest(raw, [row.params.logprobs or 0 for row in rows])
    return [
        Continuations([(token_id, next(sums), next(logprobs)) for token_id, _ in found], top)
        for found, top in zip(best, tops, strict=True)
    ]


def _at(values: Tensor, places: ListLike[ListLike[int]]) -> list[float]:
    """The numbers at some places of each row, one row's behind the other's."""
    rows = torch.tensor([row for row, wanted in enumerate(places) for _ in wanted], device=values.device)
    columns = torch.tensor([place for wanted in places for place in wanted], device=values.device)
    found: list[float] = values[rows, columns].tolist()
    return found


def advance(group: BeamGroup, offers: ListLike[Continuations], scheduler: Scheduler) -> None:
    """One step of a search whose members got `offers`, in their order: those that go on have a token more.

    A beam that goes on in several ways forks, one that goes on in none gives its blocks back.
    """
    before = list(group.members)

    def finish(candidate: Candidate, score: float, is_end: bool) -> Hypothesis:
        beam = before[candidate.beam]
        is_forced = beam.rules is not None and beam.rules.forced(beam.num_completion_tokens)
        said = beam.token_ids[beam.num_prompt_tokens :]
        told = _told(beam, candidate, offers[candidate.beam].top)
        if not is_end:
            return Hypothesis([*said, candidate.token_id], score, "length", told)
        # An end token is not handed out; a forced one is the limit's doing, not the model's.
        return Hypothesis(said, score, "length" if is_forced else "stop", told and told[:-1])

    candidates = [
        Candidate(number, token_id, score, logprob)
        for number, offer in enumerate(offers)
        for token_id, score, logprob in offer.found
    ]
    going_on = group.search.advance(candidates, finish)
    if group.search.is_done:
        return
    taken: set[int] = set()
    group.members = []
    for candidate in going_on:
        beam = before[candidate.beam]
        group.members.append(scheduler.fork(beam) if candidate.beam in taken else beam)
        taken.add(candidate.beam)
    for beam, candidate in zip(group.members, going_on, strict=True):
        told = _told(beam, candidate, offers[candidate.beam].top)
        beam.token_ids.append(candidate.token_id)
        if told is not None:
            beam.logprobs = told
    for number, beam in enumerate(before):
        if number not in taken:
            scheduler.drop(beam)


def _told(beam: Sequence, candidate: Candidate, top: list[tuple[int, float]]) -> list[TokenLogprobs] | None:
    """The log-probabilities of all that a beam says with this candidate, where asked for."""
    if beam.params.logprobs is None:
        return None
    return [*beam.logprobs, TokenLogprobs(candidate.logprob, top)]
