"""Beam search: which continuations go on, which are finished, and when nothing better can come. Knows no model.

Scores and ends are those of `transformers`, so that a checkpoint's published settings mean the same here: of the
continuations looked at only the best `num_beams` may finish, and a finished one scores the sum of its
log-probabilities over its length to the power of `length_penalty`.
"""

import math
from bisect import insort
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

EarlyStopping = bool | Literal["never"]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Candidate:
    """One token more for a running beam. `score` sums over all tokens, `logprob` is the model's own for this one."""

    beam: int
    token_id: int
    score: float
    logprob: float = 0.0


@dataclass(frozen=True, kw_only=True)
class BeamSettings:
    """`early_stopping` true: as soon as `num_beams` are finished; false: when the best running beam, at its present
    length, scores no better than the worst finished one; "never": when not even at the greatest length it could.

    A beam ends with one of `end_token_ids`, or when it has `max_tokens`. `num_given` tokens after the decoder's
    start were not searched for but count in lengths (a forced first token).
    """

    num_beams: int
    max_tokens: int
    end_token_ids: Collection[int]
    length_penalty: float = 1.0
    early_stopping: EarlyStopping = False
    num_given: int = 0

    @property
    def num_candidates(self) -> int:
        """How many continuations a step needs, so that `num_beams` of them go on whatever ends."""
        return candidates_needed(self.num_beams, len(set(self.end_token_ids)))


def candidates_needed(num_beams: int, num_ends: int) -> int:
    """See `BeamSettings.num_candidates`. The vocabulary must have at least so many tokens."""
    return max(2, 1 + num_ends) * num_beams


Finish = Callable[[Candidate, float, bool], Result]
"""A finished candidate, the score it is ranked by, and whether an end token finished it, and not the limit."""


@dataclass(slots=True)
class BeamSearch(Generic[Result]):
    """One search. `scores` are the running beams' sums, best first: one beam before the first step."""

    settings: BeamSettings
    scores: list[float] = field(default_factory=lambda: [0.0])
    num_tokens: int = 0
    is_done: bool = False
    _finished: list[tuple[float, int, Result]] = field(default_factory=list)
    _num_finished: int = 0

    @property
    def results(self) -> list[Result]:
        """What is finished, best first."""
        return [result for _, _, result in self._finished]

    def advance(self, candidates: Sequence[Candidate], finish: Finish[Result]) -> list[Candidate]:
        """One step: the candidates that go on, best first. `finish` makes the result of each that is finished and among
        the best so far."""
        settings = self.settings
        self.num_tokens += 1
        is_last = self.num_tokens >= settings.max_tokens
        best = sorted(candidates, key=lambda candidate: -candidate.score)[: settings.num_candidates]
        ends = [candidate.token_id in settings.end_token_ids for candidate in best]
        for candidate, is_end in list(zip(best, ends, strict=True))[: settings.num_beams]:
            if is_end or is_last:
                self._keep(self._normalised(candidate.score, self.num_tokens), candidate, is_end, finish)
        going_on = [] if is_last else [c for c, is_end in zip(best, ends, strict=True) if not is_end]
        going_on = going_on[: settings.num_beams]
        self.scores = [candidate.score for candidate in going_on]
        self.is_done = not going_on or self._is_settled()
        return going_on

    def _keep(self, score: float, candidate: Candidate, is_end: bool, finish: Finish[Result]) -> None:
        if len(self._finished) == self.settings.num_beams and -score >= self._finished[-1][0]:
            return
        self._num_finished += 1  # of equal scores the earlier one stays ahead
        insort(self._finished, (-score, self._num_finished, finish(candidate, score, is_end)))
        del self._finished[self.settings.num_beams :]

    def _is_settled(self) -> bool:
        settings = self.settings
        if len(self._finished) < settings.num_beams:
            return False
        if settings.early_stopping is True:
            return True
        length = self.num_tokens
        if settings.early_stopping == "never" and settings.length_penalty > 0.0:
            length = settings.max_tokens
        return self._normalised(self.scores[0], length) <= -self._finished[-1][0]

    def _normalised(self, score: float, num_tokens: int) -> float:
        return score / math.pow(num_tokens + self.settings.num_given, self.settings.length_penalty)
