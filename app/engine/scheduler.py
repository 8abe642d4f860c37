"""Who computes how many tokens in the next step. Integers and lists, no tensors.

Each sequence has tokens that it should have and tokens that are computed; a step gives out a token
budget over the difference. Encode, prefill, decode and recomputation after preemption are one case.
"""

from bisect import insort
from collections import deque
from collections.abc import Iterable, Mapping

from app.engine.block_manager import BlockManager
from app.engine.block_tables import BlockTables
from app.engine.lanes import Lane, Lanes, order
from app.engine.protocol import FinishReason
from app.engine.scheduled_step import ScheduledStep
from app.engine.sequence import Sequence, Status
from app.engine.speculation import NO_DRAFT

REST = 7
"""So small a part of its budget may a step exceed it by, where that ends a prompt: what would be left of it would cost
a step more."""


class Scheduler:
    """Continuous batching: membership is decided anew each step.

    Models take turns by the device time each has had. Of a step's token budget, sequences that decode come
    first; what is left goes to prompts in their order, also waiting ones, while batch size and blocks
    last. A prompt is cut where the budget ends. A source is not: one that is longer than the budget is taken
    whole, where no other prompt is in its step, and so are several beams. What the prefix cache finds need not be
    computed.

    What may be the end of the engine waits in quarantine: there one sequence at a time has steps to itself, in turns
    with those of all others, until it has got further than where the engine ended.
    """

    def __init__(
        self,
        block_sizes: Mapping[str, int],
        blocks: BlockManager,
        token_budget: int,
        max_num_seqs: int,
        prefix_cache: bool = True,
    ) -> None:
        self.lanes = Lanes(token_budget)
        self.max_num_seqs = max_num_seqs
        self.blocks = blocks
        self._sizes: dict[str, int] = {}
        self._tables = BlockTables(blocks, self._sizes, prefix_cache)
        self._cache = self._tables.cache
        self._by_id: dict[int, Sequence] = {}
        for model, size in block_sizes.items():
            self.add_model(model, size)

    def add_model(self, model: str, block_size: int, weight: float = 1.0) -> None:
        """Sequences of one more model may come; `weight` is its share of the device's time."""
        self._sizes[model] = block_size
        self.lanes.add(model, block_size, weight)

    def remove_model(self, model: str) -> None:
        """It has no sequence left, and gets none."""
        del self._sizes[model]
        self.lanes.remove(model)
        self.blocks.forget(model)

    @property
    def num_requests(self) -> int:
        """Requests that wait or run."""
        return len(self._by_id)

    @property
    def has_work(self) -> bool:
        """Is there anything to compute?"""
        return self.num_requests > 0

    def add(self, sequence: Sequence) -> None:
        """Puts a new sequence in line."""
        self._by_id[sequence.id] = sequence
        self.lanes.join(sequence)

    def charge(self, step: ScheduledStep, seconds: float) -> None:
        """Notes the device time that a step took."""
        self._lane_of(step).charge(seconds)

    def isolate(self, step: ScheduledStep) -> None:
        """The step failed before anything of it was committed: each of its sequences goes on by itself."""
        for unit in step.units:
            self._preempt(unit[0])
            for member in unit:
                self.lanes.of(member).waiting.remove(member)
                member.alone_until = len(member.token_ids)
                self.lanes.wait(member)

    def ease(self, step: ScheduledStep) -> None:
        """The step was too large for the memory, and nothing of it is committed: it is done again in parts."""
        self._lane_of(step).ease(step.size)
        for unit in step.units:
            self._preempt(unit[0])

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
        self._tables.share(twin)
        self.lanes.run(twin)
        return twin

    def drop(self, sequence: Sequence) -> None:
        """Takes one sequence out, whose request may go on in others, and gives its blocks back."""
        lane = self.lanes.of(sequence)
        (lane.running if sequence.status is Status.RUNNING else lane.waiting).remove(sequence)
        self._tables.release(sequence)
        sequence.status = Status.FINISHED

    def abort(self, ids: Iterable[int]) -> list[Sequence]:
        """Ends those of `ids` that are still here; returns them."""
        found = [self._by_id[i] for i in ids if i in self._by_id]
        for sequence in found:
            self.finish(sequence, "abort")
        return found

    def schedule(self, prompt_budgets: Mapping[str, int] | None = None) -> ScheduledStep | None:
        """The next step; None where nothing can be computed. It must be run, then committed.

        `prompt_budgets`, by model and above 0, bound the tokens of prompts and sources within the token budget, and
        like that are passed over by what is never cut.
        """
        self.lanes.let_out(self.max_num_seqs)
        for lane in self.lanes.turns():
            prompt_budget = (prompt_budgets or {}).get(lane.model, lane.token_budget)
            step = self._schedule_lane(lane, prompt_budget)
            if step.sequences:
                return step
        return None

    def commit(self, step: ScheduledStep) -> None:
        """Notes that a step has run: what it was to compute is computed, and can be found."""
        for sequence, count in zip(step.sequences, step.num_tokens, strict=True):
            if sequence.needs_encode:
                sequence.is_encoded = True
                self._cache.register_source(sequence)
            # Whether a draft holds is seen when the next token is sampled.
            sequence.num_computed_tokens += min(count, sequence.num_new_tokens)
            self._cache.register(sequence)

    def _lane_of(self, step: ScheduledStep) -> Lane:
        return (self.lanes.quarantine if step.is_quarantine else self.lanes.ordinary)[step.model]

    def _schedule_lane(self, lane: Lane, prompt_budget: int) -> ScheduledStep:
        step = ScheduledStep(lane.model, lane.is_quarantine)
        self._cache.begin_step()
        self._decode(lane, step)
        room = lane.token_budget - step.num_decoding - step.num_drafted
        budget = min(room, prompt_budget)
        self._read_prompts(lane, step, budget, min(budget // REST, room - budget))
        return step

    def _decode(self, lane: Lane, step: ScheduledStep) -> None:
        """One token each, while the budget lasts; who finds no block for it preempts, or is preempted."""
        for sequence in list(lane.running):
            unit = sequence.unit
            if step.num_decoding >= lane.token_budget:
                break
            if (
                sequence.status is not Status.RUNNING
                or sequence is not unit[0]
                or sequence.num_new_tokens != 1
            ):
                continue
            step.preempted += self._make_room(sum(map(self._tables.num_to_grow, unit)), sequence)
            if sequence.status is Status.RUNNING:
                for member in unit:
                    step.copies += self._tables.grow(member, step.stale_blocks)
                    step.add(member, 1 + self._take_draft(member, step, lane))
                step.num_decoding += len(unit)

    def _take_draft(self, sequence: Sequence, step: ScheduledStep, lane: Lane) -> int:
        """How much of its draft is computed: guesses take no budget and no block that another sequence is
        about to need."""
        if not sequence.draft.token_ids:
            return 0
        sequence.draft = sequence.draft.cut(max(0, lane.token_budget - len(lane.running) - step.num_drafted))
        spare = self.blocks.num_free - self.lanes.num_reserved
        length = self._tables.grow_draft(sequence, spare, step.stale_blocks)
        step.num_drafted += length
        return length

    def _read_prompts(self, lane: Lane, step: ScheduledStep, budget: int, spare: int) -> None:
        """Prompts that have begun, whose blocks they hold since, and waiting sequences, in the order of all of them. A
        waiting one that cannot join keeps those behind it waiting too.

        What is left of a prompt may take `spare` tokens more than the budget, rather than a step of its own.
        """
        begun = deque(one for one in lane.running if one.num_new_tokens > 1)
        is_open = not lane.is_full
        while budget > 0:
            first = lane.first_in_line(self.max_num_seqs) if is_open and lane.waiting else None
            if begun and (first is None or begun[0].order < first.order):
                sequence = begun.popleft()
                budget -= self._read(sequence, step, sequence.most_at_once, budget, spare)
            elif first is not None and self._can_join(first.unit, step, budget):
                for sequence in first.unit:
                    budget -= self._admit(sequence, lane, step, budget, spare)
                is_open = not lane.is_full
            elif begun:
                is_open = False
            else:
                break

    def _can_join(self, unit: list[Sequence], step: ScheduledStep, budget: int) -> bool:
        has_prompts = len(step.sequences) > step.num_decoding
        if has_prompts and self._num_uncut(unit) > budget:
            return False
        return self._has_room_for(unit) and not self._is_behind_another(unit)

    def _admit(self, sequence: Sequence, lane: Lane, step: ScheduledStep, budget: int, spare: int) -> int:
        """Lets one who waits begin; returns what it takes of the budget."""
        lane.waiting.remove(sequence)
        self.lanes.run(sequence)
        sequence.status = Status.RUNNING
        self._tables.start(sequence, step.stale_blocks)
        num_source = len(sequence.source_ids) if sequence.needs_encode else 0
        count = sequence.most_at_once
        if len(sequence.unit) > 1:
            return num_source + self._read(sequence, step, count, count, 0)
        # Cross keys are computed by the decoder, so that an encode goes with one of its tokens at least.
        return num_source + self._read(sequence, step, count, max(1, budget - num_source), spare)

    def _read(self, sequence: Sequence, step: ScheduledStep, count: int, budget: int, spare: int) -> int:
        """Adds up to `count` tokens of a prompt; returns how many."""
        if count > budget + spare:
            count = budget
        step.add(sequence, count)
        self._cache.expect(sequence, count)
        return count

    def _num_uncut(self, unit: list[Sequence]) -> int:
        """Tokens that one step must compute: sources, and all that several beams need, which go on together."""
        count = 0
        for sequence in unit:
            found = self._cache.find(sequence)
            if not found.cross_blocks:
                count += len(sequence.source_ids)
            if len(unit) > 1:
                size = self.lanes.of(sequence).block_size
                count += len(sequence.token_ids) - len(found.blocks) * size
        return count

    def _has_room_for(self, unit: list[Sequence]) -> bool:
        """Would the blocks that it takes leave one for every running sequence to grow into?"""
        needed = sum(map(self._tables.num_to_start, unit))
        if not needed:
            return True
        return needed + min(self.lanes.num_reserved, self.blocks.num_blocks - needed) <= self.blocks.num_free

    def _is_behind_another(self, unit: list[Sequence]) -> bool:
        """Is one of another model earlier in order, and waits for blocks? Small ones must not starve a large one."""
        if not unit[0].token_ids:
            return False
        heads = (lane.waiting[0] for lane in self.lanes.every if lane.waiting)
        return any(head.order < unit[0].order and not self._has_room_for(head.unit) for head in heads)

    def _make_room(self, needed: int, sequence: Sequence) -> list[int]:
        """Preempts from the last in order, of any model, until `needed` blocks are free.

        The first in order is never preempted for another, so somebody always gets to the end.
        Returns the ids of those that were preempted; `sequence` itself may be among them.
        """
        preempted = []
        while self.blocks.num_free < needed and sequence.status is Status.RUNNING:
            holders = (s for lane in self.lanes.every for s in lane.running if s.block_table)
            last = max(holders, key=order)
            self._preempt(last)
            preempted.append(last.id)
        return preempted

    def _preempt(self, sequence: Sequence) -> None:
        lane = self.lanes.of(sequence)
        for member in sequence.unit:
            lane.running.remove(member)
            self._tables.release(member)
            member.num_computed_tokens, member.is_encoded, member.draft = 0, False, NO_DRAFT
            member.status = Status.WAITING
            insort(lane.waiting, member, key=order)
