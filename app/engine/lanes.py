"""Where sequences stand in line: for each model a lane, and beside it a quarantine. No tensors and no clock."""

from bisect import insort
from dataclasses import dataclass, field
from itertools import chain

from app.engine.sequence import AGING_SECONDS, Sequence

KEPT = 8
"""The part of the places in a batch that is kept for those who have little of their sender's before them."""
_REGAINED = 64
"""The part of a lane's token budget that each step gives back to one that was cut."""


@dataclass
class Lane:
    """One model's sequences. `clock` is the device time it has had over its `weight`, for taking turns fairly.

    In a quarantine one unit runs at a time. `token_budget` is of each step: less than `most_tokens` for a while where
    memory was too short.
    """

    model: str
    block_size: int
    most_tokens: int
    is_quarantine: bool = False
    waiting: list[Sequence] = field(default_factory=list)
    running: list[Sequence] = field(default_factory=list)
    weight: float = 1.0
    clock: float = 0.0

    def __post_init__(self) -> None:
        self.token_budget = self.most_tokens

    @property
    def has_work(self) -> bool:
        """Anything to compute?"""
        return bool(self.waiting or self.running)

    @property
    def num_decoding(self) -> int:
        """Rows of those past their prompts: a token each, and its draft."""
        return sum(1 + len(one.draft.token_ids) for one in self.running if one.num_new_tokens == 1)

    @property
    def num_reserved(self) -> int:
        """Running sequences, and those that searches may still fork."""
        searches = {id(s.group): s.width - len(s.group.members) for s in self.running if s.group is not None}
        return len(self.running) + sum(searches.values())

    @property
    def is_full(self) -> bool:
        """A quarantine in which somebody runs."""
        return self.is_quarantine and bool(self.running)

    @property
    def silent_since(self) -> float | None:
        """When the first of those came that have said nothing yet, as their prompts wait or are computed."""
        silent = (one for one in self.running if not one.num_completion_tokens)
        return min((one.arrival for one in chain(silent, self.waiting[:1])), default=None)

    def first_in_line(self, max_num_seqs: int) -> Sequence | None:
        """Who waits and comes next, where there is a place for it.

        Those who have more than a few of their sender before them get all places but a part. Where that is taken, they
        let the others pass, so that long texts of one sender do not make all others wait for their ends.
        """
        first: Sequence | None = self.waiting[0]
        assert first is not None
        few = max(1, max_num_seqs // (4 * KEPT))
        if first.request.behind >= few:
            taken = sum(1 for sequence in self.running if sequence.request.behind >= few)
            if taken and taken + first.width > max_num_seqs - max_num_seqs // KEPT:
                first = next((sequence for sequence in self.waiting if sequence.request.behind < few), None)
        has_room = first is not None and self.num_reserved + first.width <= max_num_seqs
        return first if has_room else None

    def charge(self, seconds: float) -> None:
        """A step of it has run, and took so long."""
        self.clock += seconds / self.weight
        self.token_budget = min(self.most_tokens, self.token_budget + 1 + self.token_budget // _REGAINED)

    def ease(self, num_tokens: int) -> None:
        """A step of so many tokens was too large for the memory: the next ones hold half as much."""
        self.token_budget = max(1, num_tokens // 2)


class Lanes:
    """Every model's two lanes. A sequence is in quarantine while it has an `alone_until`."""

    def __init__(self, token_budget: int) -> None:
        self.ordinary: dict[str, Lane] = {}
        self.quarantine: dict[str, Lane] = {}
        self._token_budget = token_budget
        self._lead = 0.0

    def add(self, model: str, block_size: int, weight: float) -> None:
        """A model's two, empty; `weight` is its share of the device's time."""
        for lanes, is_quarantine in ((self.ordinary, False), (self.quarantine, True)):
            lanes[model] = Lane(model, block_size, self._token_budget, is_quarantine, weight=weight)

    def remove(self, model: str) -> None:
        """Nobody is in them any more."""
        del self.ordinary[model], self.quarantine[model]

    @property
    def every(self) -> list[Lane]:
        """All of both kinds."""
        return [*self.ordinary.values(), *self.quarantine.values()]

    @property
    def num_reserved(self) -> int:
        """As a lane's, over all of them."""
        return sum(lane.num_reserved for lane in self.every)

    def of(self, sequence: Sequence) -> Lane:
        """The lane that a sequence waits or runs in."""
        return (self.ordinary if sequence.alone_until is None else self.quarantine)[sequence.model]

    def turns(self) -> list[Lane]:
        """Those with work, who has had the least first."""
        return sorted((lane for lane in self.every if lane.has_work), key=_turn)

    def join(self, sequence: Sequence) -> None:
        """Puts a new sequence in line, level with the first one that waits.

        A level of priority puts it before others by AGING_SECONDS, a turn that others have first behind them by as
        much; a longer text puts it behind by a little, so that short ones need not wait for long ones that came just
        before. Where it would stand without these never goes back and goes on at least as fast as time does, so that
        nobody is overtaken for ever: whoever comes later by so many seconds is behind.
        """
        firsts = [lane.waiting[0] for lane in self.every if lane.waiting]
        levels = (one.turn - one.length_seconds + AGING_SECONDS * one.request.priority for one in firsts)
        self._lead = max(self._lead, min(levels, default=0.0) - sequence.arrival)
        turns = sequence.request.behind - sequence.request.priority
        sequence.turn = sequence.arrival + self._lead + AGING_SECONDS * turns + sequence.length_seconds
        self.wait(sequence)

    def wait(self, sequence: Sequence) -> None:
        """Puts a sequence in line where its turn is."""
        lane = self.of(sequence)
        if not lane.has_work:
            # Idle time earns no credit: a model that wakes starts level with the busy ones.
            busy = [other.clock for other in self.every if other.has_work]
            lane.clock = max(lane.clock, min(busy, default=lane.clock))
        insort(lane.waiting, sequence, key=order)

    def run(self, sequence: Sequence) -> None:
        """Puts it among those that run."""
        insort(self.of(sequence).running, sequence, key=order)

    def let_out(self, max_num_seqs: int) -> None:
        """Those in quarantine that have got further join the others, while a batch has room."""
        for lane in self.quarantine.values():
            for sequence in [s for s in lane.running if s is s.unit[0]]:
                until, others = sequence.alone_until, self.ordinary[lane.model]
                has_room = others.num_reserved + sequence.width <= max_num_seqs
                if until is None or len(sequence.token_ids) <= until or not has_room:
                    continue
                for member in sequence.unit:
                    lane.running.remove(member)
                    member.alone_until = None
                    self.run(member)


def order(sequence: Sequence) -> tuple[float, int]:
    """Whose turn comes first."""
    return sequence.order


def _turn(lane: Lane) -> tuple[float, str, bool]:
    return lane.clock, lane.model, lane.is_quarantine
