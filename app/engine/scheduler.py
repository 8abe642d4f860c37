"""Who computes how many tokens in the next step. Integers and lists, no tensors.

Each sequence has tokens that it should have and tokens that are computed; a step gives out a token
budget over the difference. Encode, prefill, decode and recomputation after preemption are one case.
"""

from bisect import insort
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from app.engine.block_manager import BlockManager, num_blocks
from app.engine.prefix_cache import Found, PrefixCache
from app.engine.protocol import FinishReason
from app.engine.sequence import Sequence, Status


@dataclass
class ScheduledStep:
    """One model's next step: the sequences in it, and beside them how many decoder tokens each computes.

    `num_decoding` of them, the first ones, compute their last token after earlier ones; the others are
    in their prompts, which may take several steps. Those that need it have their source encoded, always whole.
    `stale_blocks` must be cleared before anything is written.
    """

    model: str
    sequences: list[Sequence] = field(default_factory=list)
    num_tokens: list[int] = field(default_factory=list)
    num_decoding: int = 0
    stale_blocks: list[int] = field(default_factory=list)
    num_preempted: int = 0

    def add(self, sequence: Sequence, num_tokens: int) -> None:
        """Lets a sequence compute that many more of its decoder tokens."""
        self.sequences.append(sequence)
        self.num_tokens.append(num_tokens)


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

    Models take turns by the device time each has had. Of a step's token budget, sequences that decode come
    first; what is left goes to prompts: those begun before, then waiting ones, while batch size and blocks
    last. A prompt is cut where the budget ends. A source is not: one that is longer than the budget is taken
    whole, where no other prompt is in its step. What the prefix cache finds need not be computed.
    """

    def __init__(
        self,
        block_sizes: Mapping[str, int],
        blocks: BlockManager,
        token_budget: int,
        max_num_seqs: int,
        prefix_cache: bool = True,
    ) -> None:
        self.lanes = {model: Lane(size) for model, size in block_sizes.items()}
        self.token_budget, self.max_num_seqs = token_budget, max_num_seqs
        self._blocks = blocks
        self._cache = PrefixCache(blocks, block_sizes, prefix_cache)
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
        """The next step; None where nothing can be computed. It must be run, then committed."""
        lanes = sorted((lane.clock, name) for name, lane in self.lanes.items() if lane.has_work)
        for _, name in lanes:
            step = self._schedule_model(name, self.lanes[name])
            if step.sequences:
                return step
        return None

    def commit(self, step: ScheduledStep) -> None:
        """Notes that a step has run: what it was to compute is computed, and can be found."""
        for sequence, count in zip(step.sequences, step.num_tokens, strict=True):
            if sequence.needs_encode:
                sequence.is_encoded = True
                self._cache.register_source(sequence)
            sequence.num_computed_tokens += count
            self._cache.register(sequence)

    def _schedule_model(self, model: str, lane: Lane) -> ScheduledStep:
        step = ScheduledStep(model)
        self._cache.begin_step()
        self._decode(lane, step)
        budget = self._continue_prompts(lane, step, self.token_budget - step.num_decoding)
        self._admit_waiting(lane, step, budget)
        return step

    def _decode(self, lane: Lane, step: ScheduledStep) -> None:
        """One token each, while the budget lasts; who finds no block for it preempts, or is preempted."""
        for sequence in list(lane.running):
            if step.num_decoding == self.token_budget:
                break
            if sequence.status is not Status.RUNNING or sequence.num_new_tokens != 1:
                continue
            needed = num_blocks(len(sequence.token_ids), lane.block_size) - len(sequence.block_table)
            step.num_preempted += self._make_room(needed, sequence)
            if sequence.status is Status.RUNNING:
                step.stale_blocks += self._extend(sequence, sequence.block_table, needed)
                step.add(sequence, 1)
                step.num_decoding += 1

    def _continue_prompts(self, lane: Lane, step: ScheduledStep, budget: int) -> int:
        """The next tokens of prompts that have begun, whose blocks they hold since; returns what is left."""
        for sequence in lane.running:
            if sequence.num_new_tokens > 1 and budget > 0:
                count = min(sequence.num_new_tokens, budget)
                step.add(sequence, count)
                self._cache.expect(sequence, count)
                budget -= count
        return budget

    def _admit_waiting(self, lane: Lane, step: ScheduledStep, budget: int) -> None:
        """Waiting sequences join in their order; the first that cannot keeps those behind it waiting too."""
        while lane.waiting and budget > 0 and len(lane.running) < self.max_num_seqs:
            sequence = lane.waiting[0]
            found = self._cache.find(sequence)
            num_source = 0 if found.cross_blocks else len(sequence.source_ids)
            has_prompts = len(step.sequences) > step.num_decoding
            if num_source > budget and has_prompts:
                break
            if not self._has_room_for(sequence, found) or self._is_behind_another(sequence):
                break
            lane.waiting.pop(0)
            step.stale_blocks += self._start(sequence, found)
            # Cross keys are computed by the decoder, so that an encode goes with one of its tokens at least.
            count = min(sequence.num_new_tokens, max(1, budget - num_source))
            step.add(sequence, count)
            self._cache.expect(sequence, count)
            budget -= num_source + count

    def _start(self, sequence: Sequence, found: Found) -> list[int]:
        """Gives a waiting sequence all the blocks that its tokens need; returns the stale ones among them."""
        lane = self.lanes[sequence.model]
        insort(lane.running, sequence, key=_order)
        sequence.status = Status.RUNNING
        if not sequence.token_ids:
            return []
        self._take_over(sequence, found)
        stale: list[int] = []
        for table, length in (
            (sequence.block_table, len(sequence.token_ids)),
            (sequence.cross_block_table, len(sequence.source_ids)),
        ):
            stale += self._extend(sequence, table, num_blocks(length, lane.block_size) - len(table))
        return stale

    def _take_over(self, sequence: Sequence, found: Found) -> None:
        """Shares what is computed. Before any block is allocated, which could be one of these."""
        self._blocks.share([*found.blocks, *found.cross_blocks])
        sequence.block_table, sequence.cross_block_table = found.blocks, found.cross_blocks
        sequence.num_registered_blocks = len(found.blocks)
        sequence.num_computed_tokens = len(found.blocks) * self.lanes[sequence.model].block_size
        sequence.is_encoded = bool(found.cross_blocks)
        if sequence.num_cached_tokens is None:
            num_source = len(sequence.source_ids) if sequence.is_encoded else 0
            sequence.num_cached_tokens = num_source if sequence.source_ids else sequence.num_computed_tokens

    def _has_room_for(self, sequence: Sequence, found: Found) -> bool:
        """Would the blocks that it takes leave one for every running sequence to grow into?"""
        if not sequence.token_ids:
            return True
        size = self.lanes[sequence.model].block_size
        needed = num_blocks(len(sequence.token_ids), size) + num_blocks(len(sequence.source_ids), size)
        needed -= sum(map(self._blocks.is_held, (*found.blocks, *found.cross_blocks)))
        reserve = sum(len(other.running) for other in self.lanes.values())
        return needed + min(reserve, self._blocks.num_blocks - needed) <= self._blocks.num_free

    def _is_behind_another(self, sequence: Sequence) -> bool:
        """Is one of another model earlier in order, and waits for blocks? Small ones must not starve a large one."""
        if not sequence.token_ids:
            return False
        heads = (lane.waiting[0] for lane in self.lanes.values() if lane.waiting)
        earlier = (head for head in heads if head.order < sequence.order)
        return any(not self._has_room_for(head, self._cache.find(head)) for head in earlier)

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
        # From the end: the beginning of a text is what another may have too, so it is to be taken last; and of an
        # encoder-decoder, the source.
        table = [*reversed(sequence.block_table), *reversed(sequence.cross_block_table)]
        self._blocks.free(sequence.model, table)
        sequence.block_table, sequence.cross_block_table = [], []
        sequence.num_registered_blocks = 0


def _order(sequence: Sequence) -> tuple[int, float, int]:
    return sequence.order
