"""Who computes how many tokens in the next step. Integers and lists, no tensors.

Each sequence has tokens that it should have and tokens that are computed; a step gives out a token
budget over the difference. Encode, prefill, decode and recomputation after preemption are one case.
"""

from bisect import insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from app.engine.block_manager import BlockManager, num_blocks
from app.engine.protocol import FinishReason
from app.engine.sequence import Sequence, Status


@dataclass(frozen=True)
class ScheduledStep:
    """One model's next step: the sequences in it, oldest first, each to be computed to its end.

    `num_decoding` of them, the first ones, compute one token after earlier ones; the others are
    new (encode, prefill). Before anything is written, `stale_blocks` must be cleared and then each (from, to) of
    `copies` be copied.
    """

    model: str
    sequences: list[Sequence]
    num_decoding: int
    stale_blocks: list[int]
    num_preempted: int
    copies: list[tuple[int, int]] = field(default_factory=list)


@dataclass
class Lane:
    """One model's sequences. `clock` is the device time it has had, for taking turns fairly."""

    block_size: int
    waiting: list[Sequence] = field(default_factory=list)
    running: list[Sequence] = field(default_factory=list)
    clock: float = 0.0

    @property
    def has_work(self) -> bool:
        """Anything to compute?"""
        return bool(self.waiting or self.running)

    @property
    def num_reserved(self) -> int:
        """Running sequences, and those that searches may still fork."""
        searches = {id(s.group): s.width - len(s.group.members) for s in self.running if s.group is not None}
        return len(self.running) + sum(searches.values())


class Scheduler:
    """Continuous batching: membership is decided anew each step.

    Models take turns by the device time each has had. Running sequences go first; then waiting
    ones join while token budget, batch size and blocks last. A prompt longer than the budget is
    taken whole, as the only new one of its step.
    """

    def __init__(
        self, block_sizes: Mapping[str, int], blocks: BlockManager, token_budget: int, max_num_seqs: int
    ) -> None:
        self.lanes = {model: Lane(size) for model, size in block_sizes.items()}
        self.token_budget, self.max_num_seqs = token_budget, max_num_seqs
        self._blocks = blocks
        self._by_id: dict[int, Sequence] = {}

    @property
    def has_work(self) -> bool:
        """Is there anything to compute?"""
        return bool(self._by_id)

    def add(self, sequence: Sequence) -> None:
        """Puts a sequence in line."""
        lane = self.lanes[sequence.model]
        if not lane.has_work:
            # Idle time earns no credit: a model that wakes starts level with the busy ones.
            busy = [other.clock for other in self.lanes.values() if other.has_work]
            lane.clock = max(lane.clock, min(busy, default=lane.clock))
        self._by_id[sequence.id] = sequence
        insort(lane.waiting, sequence, key=_order)

    def charge(self, model: str, seconds: float) -> None:
        """Notes the device time that a model's step took."""
        self.lanes[model].clock += seconds

    def finish(self, sequence: Sequence, reason: FinishReason) -> None:
        """Ends a sequence, or all beams of its group, and gives the blocks back; ending it twice is no error."""
        if self._by_id.pop(sequence.id, None) is None:
            return
        for member in sequence.unit:
            self.drop(member)
            member.finish_reason = reason

    def fork(self, sequence: Sequence) -> Sequence:
        """One more running sequence of the same request, which shares all blocks of `sequence`."""
        twin = sequence.fork()
        self._blocks.share(twin.block_table + twin.cross_block_table)
        insort(self.lanes[sequence.model].running, twin, key=_order)
        return twin

    def drop(self, sequence: Sequence) -> None:
        """Takes one sequence out, whose request may go on in others, and gives its blocks back."""
        lane = self.lanes[sequence.model]
        (lane.running if sequence.status is Status.RUNNING else lane.waiting).remove(sequence)
        self._release(sequence)
        sequence.status = Status.FINISHED

    def abort(self, ids: Iterable[int]) -> list[Sequence]:
        """Ends those of `ids` that are still here; returns them."""
        found = [self._by_id[i] for i in ids if i in self._by_id]
        for sequence in found:
            self.finish(sequence, "abort")
        return found

    def schedule(self) -> ScheduledStep | None:
        """The next step; None where nothing can be computed."""
        lanes = sorted((lane.clock, name) for name, lane in self.lanes.items() if lane.has_work)
        for _, name in lanes:
            step = self._schedule_model(name, self.lanes[name])
            if step.sequences:
                return step
        return None

    def _schedule_model(self, model: str, lane: Lane) -> ScheduledStep:
        stale: list[int] = []
        copies: list[tuple[int, int]] = []
        num_preempted = 0
        chosen: list[Sequence] = []
        budget = self.token_budget
        for sequence in list(lane.running):
            unit = sequence.unit
            if sequence.status is not Status.RUNNING or sequence is not unit[0] or budget <= 0:
                continue
            num_preempted += self._make_room(sum(self._num_wanted(s, lane) for s in unit), sequence)
            if sequence.status is Status.RUNNING:
                for member in unit:
                    copies += self._unshare(member, lane, stale)
                    needed = num_blocks(len(member.token_ids), lane.block_size) - len(member.block_table)
                    stale += self._extend(member, member.block_table, needed)
                    budget -= member.step_tokens
                chosen += unit
        num_decoding = len(chosen)
        while lane.waiting:
            unit = lane.waiting[0].unit
            step_tokens = sum(s.step_tokens for s in unit)
            if lane.num_reserved + unit[0].width > self.max_num_seqs or budget <= 0:
                break
            if step_tokens > budget and len(chosen) > num_decoding:
                break
            if not self._has_room_for(unit, lane):
                break
            for sequence in unit:
                lane.waiting.remove(sequence)
                insort(lane.running, sequence, key=_order)
                sequence.status = Status.RUNNING
                stale += self._take_blocks(sequence, lane)
            chosen += unit
            budget -= step_tokens
        return ScheduledStep(model, chosen, num_decoding, stale, num_preempted, copies)

    def _take_blocks(self, sequence: Sequence, lane: Lane) -> list[int]:
        """All that a new sequence's tokens and source need; one that decodes nothing needs none."""
        if not sequence.token_ids:
            return []
        own = num_blocks(len(sequence.token_ids), lane.block_size)
        cross = num_blocks(len(sequence.source_ids), lane.block_size)
        stale = self._extend(sequence, sequence.block_table, own)
        return stale + self._extend(sequence, sequence.cross_block_table, cross)

    def _num_wanted(self, sequence: Sequence, lane: Lane) -> int:
        """Free blocks that a running sequence's next token takes: one more, or one of its own."""
        needed = num_blocks(len(sequence.token_ids), lane.block_size) - len(sequence.block_table)
        return needed + self._writes_to_shared(sequence, lane)

    def _writes_to_shared(self, sequence: Sequence, lane: Lane) -> bool:
        place = sequence.num_computed_tokens // lane.block_size
        return place < len(sequence.block_table) and self._blocks.is_shared(sequence.block_table[place])

    def _unshare(self, sequence: Sequence, lane: Lane, stale: list[int]) -> list[tuple[int, int]]:
        """Copy on write: a block that others read too is copied before the sequence's next token goes there."""
        if not self._writes_to_shared(sequence, lane):
            return []
        place = sequence.num_computed_tokens // lane.block_size
        shared = sequence.block_table[place]
        own: list[int] = []
        stale += self._extend(sequence, own, 1)
        self._blocks.free(sequence.model, [shared])
        sequence.block_table[place] = own[0]
        return [(shared, own[0])]

    def _has_room_for(self, unit: list[Sequence], lane: Lane) -> bool:
        """Would its blocks leave one for every running sequence to grow into?"""
        needed = 0
        for sequence in unit:
            if sequence.token_ids:
                needed += num_blocks(len(sequence.token_ids), lane.block_size)
                needed += num_blocks(len(sequence.source_ids), lane.block_size)
        if not needed:
            return True
        reserve = sum(other.num_reserved for other in self.lanes.values())
        return needed + min(reserve, self._blocks.num_blocks - needed) <= self._blocks.num_free

    def _make_room(self, needed: int, sequence: Sequence) -> int:
        """Preempts from the last in order, of any model, until `needed` blocks are free.

        The first in order is never preempted for another, so somebody always gets to the end.
        Returns how many were preempted; `sequence` itself may be among them.
        """
        count = 0
        while self._blocks.num_free < needed and sequence.status is Status.RUNNING:
            holders = (s for lane in self.lanes.values() for s in lane.running if s.block_table)
            self._preempt(max(holders, key=_order))
            count += 1
        return count

    def _preempt(self, sequence: Sequence) -> None:
        lane = self.lanes[sequence.model]
        for member in sequence.unit:
            lane.running.remove(member)
            self._release(member)
            member.num_computed_tokens, member.is_encoded = 0, False
            member.status = Status.WAITING
            insort(lane.waiting, member, key=_order)

    def _extend(self, sequence: Sequence, table: list[int], count: int) -> list[int]:
        if count <= 0:
            return []
        blocks, stale = self._blocks.allocate(sequence.model, count)
        table += blocks
        return stale

    def _release(self, sequence: Sequence) -> None:
        self._blocks.free(sequence.model, sequence.block_table + sequence.cross_block_table)
        sequence.block_table, sequence.cross_block_table = [], []


def _order(sequence: Sequence) -> tuple[int, float, int]:
    return sequence.order
