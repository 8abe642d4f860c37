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
    new (encode, prefill). `stale_blocks` must be cleared before anything is written.
    """

    model: str
    sequences: list[Sequence]
    num_decoding: int
    stale_blocks: list[int]
    num_preempted: int


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
        """Ends a sequence and gives its blocks back; ending it twice is no error."""
        if self._by_id.pop(sequence.id, None) is None:
            return
        lane = self.lanes[sequence.model]
        (lane.running if sequence.status is Status.RUNNING else lane.waiting).remove(sequence)
        self._release(sequence)
        sequence.status, sequence.finish_reason = Status.FINISHED, reason

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
        num_preempted = 0
        chosen: list[Sequence] = []
        budget = self.token_budget
        for sequence in list(lane.running):
            if sequence.status is not Status.RUNNING or budget <= 0:
                continue
            needed = num_blocks(len(sequence.token_ids), lane.block_size) - len(sequence.block_table)
            num_preempted += self._make_room(needed, sequence)
            if sequence.status is Status.RUNNING:
                stale += self._extend(sequence, sequence.block_table, needed)
                chosen.append(sequence)
                budget -= sequence.step_tokens
        num_decoding = len(chosen)
        while lane.waiting and len(lane.running) < self.max_num_seqs:
            sequence = lane.waiting[0]
            if sequence.step_tokens > budget and len(chosen) > num_decoding:
                break
            if budget <= 0 or not self._has_room_for(sequence, lane):
                break
            lane.waiting.pop(0)
            insort(lane.running, sequence, key=_order)
            sequence.status = Status.RUNNING
            if sequence.token_ids:
                for table, length in (
                    (sequence.block_table, len(sequence.token_ids)),
                    (sequence.cross_block_table, len(sequence.source_ids)),
                ):
                    stale += self._extend(sequence, table, num_blocks(length, lane.block_size))
            chosen.append(sequence)
            budget -= sequence.step_tokens
        return ScheduledStep(model, chosen, num_decoding, stale, num_preempted)

    def _has_room_for(self, sequence: Sequence, lane: Lane) -> bool:
        """Would its blocks leave one for every running sequence to grow into?"""
        if not sequence.token_ids:
            return True
        needed = num_blocks(len(sequence.token_ids), lane.block_size)
        needed += num_blocks(len(sequence.source_ids), lane.block_size)
        reserve = sum(len(other.running) for other in self.lanes.values())
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
        lane.running.remove(sequence)
        self._release(sequence)
        sequence.num_computed_tokens, sequence.is_encoded = 0, False
        sequence.status = Status.WAITING
        insort(lane.waiting, sequence, key=_order)

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
