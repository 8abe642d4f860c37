"""Guesses of what a sequence says next, from its own text: no second model. Knows no tensors and no clock.

A statistical n-gram model of the text so far (an encoder-decoder's source too) drafts some tokens; the step that
computes the next token computes those after the draft as well, and what the sampler then says decides how many of
them hold. So drafts change how many steps a text takes, never the text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

MAX_ORDER = 4
"""Tokens that a guess looks back on at most."""
MAX_DRAFT = 8
MAX_READ = 4096
"""Tokens of a prompt or source that are read, its last ones."""
READ_AT_ONCE = 256
"""Tokens read for one step: they take some two microseconds each."""
BACK_OFF = 0.4
"""What a guess from one token less is worth (stupid backoff, Brants et al. 2007)."""
MARGIN = 1.25
"""How much more a guess must promise than it costs."""
HOPELESS = 0.5
"""A floor from which so few guesses reach it that looking for them costs more than they give: what has come up once
is worth no more."""
_TRUST = 2.0  # guesses whose worth is taken as promised, before any was tried
_FORGET = 0.99  # a token


@dataclass(slots=True)
class _Followers:
    """What came after one run of tokens: how often each, and the most frequent, of equals the latest."""

    best: int
    total: int = 0
    counts: dict[int, int] = field(default_factory=dict)

    def add(self, token_id: int) -> None:
        count = self.counts[token_id] = self.counts.get(token_id, 0) + 1
        self.total += 1
        if count >= self.counts[self.best]:
            self.best = token_id


class NgramModel:
    """Which token followed each run of up to `MAX_ORDER` tokens. Grows by at most that many entries a token."""

    def __init__(self) -> None:
        self._followers: dict[tuple[int, ...], _Followers] = {}

    def read(self, token_ids: Sequence[int], start: int = 0, stop: int | None = None) -> None:
        """Counts the tokens from `start` to before `stop`, each as what follows those before it."""
        for place in range(max(start, 1), len(token_ids) if stop is None else stop):
            token_id = token_ids[place]
            for order in range(1, min(MAX_ORDER, place) + 1):
                run = tuple(token_ids[place - order : place])
                followers = self._followers.get(run)
                if followers is None:
                    followers = self._followers[run] = _Followers(token_id, 0, {})
                followers.add(token_id)

    def guess(self, before: Sequence[int]) -> tuple[int, float] | None:
        """The likeliest next token after `before`, by the longest run that has come up, and what it is worth."""
        worth = 1.0
        for order in range(min(MAX_ORDER, len(before)), 0, -1):
            followers = self._followers.get(tuple(before[len(before) - order :]))
            if followers is not None:
                # One more is added to what was seen: the next may be new.
                return followers.best, worth * followers.counts[followers.best] / (followers.total + 1)
            worth *= BACK_OFF
        return None


@dataclass(frozen=True, slots=True)
class Draft:
    """Tokens that may come next, and for each how likely it holds if those before it do."""

    token_ids: list[int]
    worths: list[float]

    def cut(self, length: int) -> "Draft":
        """Its first tokens."""
        return self if len(self.token_ids) <= length else Draft(self.token_ids[:length], self.worths[:length])


NO_DRAFT = Draft([], [])


class Speculator:
    """Drafts for one sequence, and learns how far its guesses can be trusted."""

    def __init__(self, source_ids: Sequence[int]) -> None:
        self._model = NgramModel()
        self._model.read(source_ids[-MAX_READ:])
        self._num_read = 0
        self._promised = self._held = _TRUST

    @property
    def trust(self) -> float:
        """How much more or less often guesses held than they promised."""
        return self._held / self._promised

    def draft(self, token_ids: Sequence[int], most: int, floor: float) -> Draft:
        """Up to `most` tokens after `token_ids`, while all of them hold with a probability over `floor`."""
        self._read(token_ids)
        before = list(token_ids[-MAX_ORDER:])
        draft = Draft([], [])
        chance = 1.0
        while len(draft.token_ids) < min(most, MAX_DRAFT):
            guess = self._model.guess(before)
            if guess is None:
                break
            token_id, worth = guess
            worth = min(1.0, worth * self.trust)
            chance *= worth
            if chance < floor:
                break
            draft.token_ids.append(token_id)
            draft.worths.append(worth)
            before = [*before[1 - MAX_ORDER :], token_id]
        return draft

    def judge(self, draft: Draft, num_held: int) -> None:
        """How many tokens of a draft the sampler said as well; those behind the first wrong one tell nothing."""
        tried = draft.worths[: num_held + 1]
        trust = self.trust
        self._promised += sum(worth / trust for worth in tried)
        self._held += num_held

    def _read(self, token_ids: Sequence[int]) -> None:
        start = max(self._num_read, len(token_ids) - MAX_READ)
        stop = min(len(token_ids), start + READ_AT_ONCE)
        # Old judgements fade, so that a sequence whose guesses failed is tried again now and then.
        keep = _FORGET ** (stop - start)
        self._promised = _TRUST + keep * (self._promised - _TRUST)
        self._held = _TRUST + keep * (self._held - _TRUST)
        self._model.read(token_ids, start, stop)
        self._num_read = stop


class StepCost:
    """What a step's time depends on: seconds = fixed + a row's share × rows, fitted to the steps so far.

    Least squares in which a step counts half after some 35 others.
    """

    _KEEP = 0.98

    def __init__(self) -> None:
        self._weight = self._rows = self._seconds = self._squares = self._products = 0.0

    def note(self, num_rows: int, seconds: float) -> None:
        """A step that computed one token in each of so many rows."""
        self._weight = self._KEEP * self._weight + 1.0
        self._rows = self._KEEP * self._rows + num_rows
        self._seconds = self._KEEP * self._seconds + seconds
        self._squares = self._KEEP * self._squares + num_rows * num_rows
        self._products = self._KEEP * self._products + num_rows * seconds

    def floor(self, num_rows: int) -> float:
        """What a guess must be worth in a step of so many rows, so that it makes text come faster.

        One row more adds its share to the time and its worth to the tokens; that pays where worth over share is
        more than tokens over time. Before rows have varied, half of a step's time is taken to be the rows'.
        """
        if not self._weight:
            return MARGIN * 0.5
        rows, seconds = self._rows / self._weight, self._seconds / self._weight
        variance = self._squares / self._weight - rows * rows
        if variance > 0.01 * rows * rows:
            share = (self._products / self._weight - rows * seconds) / variance
        else:
            share = 0.5 * seconds / rows
        # No row is free: below a tenth of the average it is noise that says so.
        share = min(max(share, 0.1 * seconds / rows), seconds / rows)
        total = seconds + share * (num_rows - rows)
        return MARGIN * share * num_rows / total
