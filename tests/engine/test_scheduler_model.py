"""Scheduler and block manager against a model of the cache that remembers what every position holds.

Decoders, searches with beams, encoder-decoders and encoders arrive and are aborted in any order, share beginnings and
sources, with drafts that hold or not, in a cache so small that they preempt each other; some steps fail, and some are
the end of the engine; decoders are loaded and unloaded. Everybody has ended once when all is done.
"""

from collections import Counter
from itertools import chain
from typing import Any

from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from app.engine.block_manager import BlockManager, num_blocks
from app.engine.scheduled_step import ScheduledStep
from app.engine.scheduler import Scheduler
from app.engine.sequence import AGING_SECONDS, BeamGroup, Sequence, Status
from app.engine.speculation import Draft
from model.beam_search import BeamSearch, BeamSettings
from tests.engine.test_scheduler import sequence_of

SIZES = {"decoder": 4, "both": 3, "encoder": 1}
TEXTS = [[1] * 16, [1] * 8 + [2] * 8, [3, 4] * 8]
MOST = 9
"""Sequences in a step."""
ADAPTERS = st.sampled_from([None, None, "adapter"])


class SchedulerMachine(RuleBasedStateMachine):
    """`pages` are what the arena would hold: whose page it is, and by offset what was computed there."""

    @initialize(
        blocks=st.integers(8, 20), budget=st.integers(1, 30), most=st.integers(1, MOST), is_on=st.booleans()
    )
    def start(self, blocks: int, budget: int, most: int, is_on: bool) -> None:
        self.shape = (blocks, budget, most, is_on)
        self.sizes, self.decoders, self.num_loaded = dict(SIZES), ["decoder"], 0
        self.scheduler = self._begin()
        self.pages: list[tuple[str, dict[int, object]]] = [("", {}) for _ in range(blocks)]
        self.everyone: list[Sequence] = []
        self.ends: Counter[int] = Counter()
        self.orders: list[tuple[float, int]] = []

    @rule(
        text=st.sampled_from(TEXTS),
        length=st.integers(1, 16),
        outputs=st.integers(1, 12),
        priority=st.integers(-1, 1),
        behind=st.sampled_from([0, 0, 1, 2, 100]),
        adapter=ADAPTERS,
        which=st.sampled_from([0, 0, 1]),
    )
    def add_decoder(
        self,
        text: list[int],
        length: int,
        outputs: int,
        priority: int,
        behind: int,
        adapter: str | None,
        which: int,
    ) -> None:
        model = self.decoders[which % len(self.decoders)]
        assume(num_blocks(length + outputs, self.sizes[model]) <= self.manager.num_blocks)
        self._add(text[:length], [], model, outputs, priority, adapter, behind)

    @precondition(lambda self: len(self.decoders) < 2)
    @rule(size=st.integers(2, 9), weight=st.sampled_from([0.5, 1.0, 2.0]))
    def load(self, size: int, weight: float) -> None:
        """One more decoder, whose pages hold more positions or fewer."""
        self.num_loaded += 1
        model = f"decoder:{self.num_loaded}"
        self.sizes[model] = size
        self.decoders.append(model)
        self.scheduler.add_model(model, size, weight)

    @precondition(lambda self: len(self.decoders) > 1)
    @rule()
    def unload(self) -> None:
        """Nothing more comes for the older decoder; those that it has go on."""
        del self.decoders[0]

    @rule(
        text=st.sampled_from(TEXTS),
        num_source=st.integers(1, 10),
        length=st.integers(1, 5),
        outputs=st.integers(1, 6),
        adapter=ADAPTERS,
    )
    def add_encoder_decoder(
        self, text: list[int], num_source: int, length: int, outputs: int, adapter: str | None
    ) -> None:
        self._add([0] * length, text[:num_source], "both", outputs, 0, adapter)

    @rule(
        text=st.sampled_from(TEXTS),
        length=st.integers(1, 6),
        outputs=st.integers(1, 9),
        width=st.integers(2, 3),
        is_both=st.booleans(),
    )
    def add_search(self, text: list[int], length: int, outputs: int, width: int, is_both: bool) -> None:
        model = "both" if is_both else self.decoders[0]
        token_ids, source_ids = ([0], text[:length]) if is_both else (text[:length], [])
        needed = num_blocks(len(token_ids) + outputs, self.sizes[model]) + num_blocks(
            len(source_ids), self.sizes[model]
        )
        assume(width <= self.scheduler.max_num_seqs and width * (needed + 1) <= self.manager.num_blocks)
        self._add(token_ids, source_ids, model, outputs, 0, None)
        search = BeamSettings(num_beams=width, max_tokens=outputs, end_token_ids=())
        self.everyone[-1].group = BeamGroup(BeamSearch(search), [self.everyone[-1]])

    @rule(length=st.integers(1, 40), behind=st.integers(0, 3))
    def add_encoder(self, length: int, behind: int) -> None:
        self._add([], [5] * length, "encoder", 0, 0, None, behind)

    @rule(data=st.data())
    def abort(self, data: Any) -> None:
        number = data.draw(st.integers(0, max(0, len(self.everyone) - 1)))
        for sequence in self.scheduler.abort([number]):
            self.ends[sequence.id] += 1

    @precondition(lambda self: self.scheduler.has_work)
    @rule(
        samples=st.lists(st.integers(0, 2), min_size=MOST, max_size=MOST),
        seconds=st.sampled_from([0.5, 1.0]),
        num_drafted=st.integers(0, 5),
        prompt_budget=st.integers(1, 30),
    )
    def step(self, samples: list[int], seconds: float, num_drafted: int, prompt_budget: int) -> None:
        """Who gets the sample n has n tokens of its draft right; the next draft is `num_drafted` tokens."""
        step = self._planned(prompt_budget)
        self._compute(step)
        self.scheduler.charge(step, seconds)
        self.scheduler.commit(step)
        for sequence, token_id in zip(step.sequences, samples[: len(step.sequences)], strict=True):
            if sequence.num_new_tokens or sequence is not sequence.unit[0]:
                continue
            if sequence.group is not None:
                self._go_on(sequence.group, samples)
                sequence = sequence.group.members[0]
            elif sequence.token_ids:
                held = sequence.draft.token_ids[:token_id]
                sequence.token_ids += [*held, token_id]
                sequence.num_computed_tokens += len(held)
                most = sequence.max_tokens - sequence.num_completion_tokens - 1
                drafted = [7, 8, 9, 7, 8][: max(0, min(num_drafted, most))]
                sequence.draft = Draft(drafted, [1.0] * len(drafted))
            if not sequence.token_ids or sequence.num_completion_tokens >= sequence.max_tokens:
                self._finish(sequence)

    @precondition(lambda self: self.scheduler.has_work)
    @rule()
    def fail(self) -> None:
        """What the engine does with those that are at fault themselves."""
        step = self._planned(30)
        self._spoil(step)
        for number in {sequence.id for sequence in step.sequences}:
            self._finish(self.everyone[number])

    @precondition(lambda self: self.scheduler.has_work)
    @rule(is_too_large=st.booleans())
    def fall_apart(self, is_too_large: bool) -> None:
        """A step that raised is done again: in parts, or each of its sequences by itself."""
        step = self._planned(30)
        self._spoil(step)
        if is_too_large:
            self.scheduler.ease(step)
        else:
            self.scheduler.isolate(step)

    @rule(suspects=st.sets(st.integers(0, 5)))
    def crash(self, suspects: set[int]) -> None:
        """Another engine, which is told what everybody has said; searches start anew, and some are watched."""
        self.scheduler = self._begin()
        self.pages = [("", {}) for _ in self.pages]
        for number, old in enumerate(self.everyone):
            if self.ends[number]:
                continue
            prompt, said = old.token_ids[: old.num_prompt_tokens], old.token_ids[old.num_prompt_tokens :]
            request = old.request
            new = sequence_of(
                *(number, prompt, old.source_ids, old.model, old.max_tokens),
                *(request.priority, old.adapter, request.behind),
            )
            if old.group is not None:
                new.group = BeamGroup(BeamSearch(old.group.search.settings), [new])
            else:
                new.token_ids += said
            if number in suspects:
                new.alone_until = len(old.token_ids)
            self.everyone[number] = new
            self.scheduler.add(new)
            self.orders[number] = new.order

    def _begin(self) -> Scheduler:
        blocks, budget, most, is_on = self.shape
        return Scheduler(self.sizes, BlockManager(blocks), budget, most, prefix_cache=is_on)

    @property
    def manager(self) -> BlockManager:
        return self.scheduler.blocks

    def _spoil(self, step: ScheduledStep) -> None:
        """Nothing of it counts, whatever it has written."""
        self._prepare(step)
        for sequence, count in zip(step.sequences, step.num_tokens, strict=True):
            for place in range(sequence.num_computed_tokens, sequence.num_computed_tokens + count):
                self._write(sequence, sequence.block_table, place, "garbage")
            if sequence.token_ids and sequence.needs_encode:
                for place in range(len(sequence.source_ids)):
                    self._write(sequence, sequence.cross_block_table, place, "garbage")

    @invariant()
    def what_nobody_is_at_work_on_is_gone(self) -> None:
        used = {sequence.model for sequence in self._live()}
        for model in set(self.sizes) - used - set(self.decoders) - {"both", "encoder"}:
            del self.sizes[model]
            self.scheduler.remove_model(model)
            assert all(self.manager._last_owner[block] != model for block in self.manager._idle)

    @invariant()
    def every_block_is_held_as_often_as_tables_name_it_or_free(self) -> None:
        tables = [table for s in self._live() for table in (s.block_table, s.cross_block_table)]
        holders = Counter(chain.from_iterable(tables))
        for block in range(self.manager.num_blocks):
            assert self.manager.is_held(block) == (holders[block] > 0)
            assert self.manager.is_shared(block) == (holders[block] > 1)
        assert len(set(holders)) + self.manager.num_free == self.manager.num_blocks
        assert sum(self.manager.num_held(model) for model in self.sizes) == len(set(holders))
        assert all(len(set(table)) == len(table) for table in tables)

    @invariant()
    def the_order_of_two_never_changes_and_whoever_comes_that_much_later_is_behind(self) -> None:
        """... whatever else has come and gone meanwhile."""
        assert [sequence.order for sequence in self.everyone] == self.orders
        live = sorted({sequence.id for sequence in self._live()})
        limits = {
            s.id: s.arrival + s.length_seconds + AGING_SECONDS * (s.request.behind - s.request.priority)
            for s in self.everyone
        }
        for number in live[:-1]:
            assert self.orders[number] < self.orders[live[-1]] or limits[number] > limits[live[-1]]

    def teardown(self) -> None:
        """Nobody is kept waiting for ever."""
        if not hasattr(self, "everyone"):
            return
        for _ in range(100 * len(self.everyone)):
            if not self.scheduler.has_work:
                break
            self.step([0] * MOST, 1.0, 5, 30)
        assert all(s.status is Status.FINISHED for s in self.everyone)
        assert self.ends == Counter(s.id for s in self.everyone)
        assert self.manager.num_free == self.manager.num_blocks
        self.decoders.clear()
        self.what_nobody_is_at_work_on_is_gone()

    def _add(
        self,
        token_ids: list[int],
        source_ids: list[int],
        model: str,
        outputs: int,
        priority: int,
        adapter: str | None,
        behind: int = 0,
    ) -> None:
        number = len(self.everyone)
        self.everyone.append(
            sequence_of(number, list(token_ids), source_ids, model, outputs, priority, adapter, behind)
        )
        self.scheduler.add(self.everyone[-1])
        self.orders.append(self.everyone[-1].order)

    def _live(self) -> list[Sequence]:
        lanes = self.scheduler.lanes.every
        return [sequence for lane in lanes for sequence in (*lane.running, *lane.waiting)]

    def _go_on(self, group: BeamGroup, samples: list[int]) -> None:
        """As a search may: each of its beams goes on in none of the next ones, in one, or in several."""
        before = list(group.members)
        parents = [before[token_id % len(before)] for token_id in samples[: before[0].width]]
        group.members = []
        for parent in parents:
            group.members.append(self.scheduler.fork(parent) if parent in group.members else parent)
        for token_id, member in enumerate(group.members):
            member.token_ids.append(token_id)
        for beam in before:
            if beam not in group.members:
                self.scheduler.drop(beam)

    def _finish(self, sequence: Sequence) -> None:
        self.scheduler.finish(sequence, "length")
        self.ends[sequence.id] += 1

    def _planned(self, prompt_budget: int) -> ScheduledStep:
        step = self.scheduler.schedule(dict.fromkeys(self.sizes, prompt_budget))
        assert step is not None, "somebody can always go on"
        self._check_budget(step, prompt_budget)
        assert len(self.scheduler.lanes.ordinary[step.model].running) <= self.scheduler.max_num_seqs
        assert len({id(s) for s in step.sequences}) == len(step.sequences)
        assert len(step.units) == 1 or not step.is_quarantine
        for sequence in step.sequences:
            assert set(map(id, sequence.unit)) <= set(map(id, step.sequences)), "beams go on together"
        for place, (sequence, count) in enumerate(zip(step.sequences, step.num_tokens, strict=True)):
            assert sequence.status is Status.RUNNING
            assert sequence.model == step.model
            assert (count > 0) == bool(sequence.token_ids), "an encoder has nothing to decode"
            if place >= step.num_decoding:
                assert count <= sequence.num_new_tokens
            else:
                assert count == 1 + len(sequence.draft.token_ids)
                assert sequence.num_new_tokens == 1 <= sequence.num_computed_tokens
        assert step.num_drafted == sum(step.num_tokens[: step.num_decoding]) - step.num_decoding
        return step

    def _check_budget(self, step: ScheduledStep, prompt_budget: int) -> None:
        """Over it is only what is never cut, alone; and the one token that goes with a source that just fits."""
        prompts = step.sequences[step.num_decoding :]
        num_sources = sum(len(s.source_ids) for s in prompts if s.needs_encode)
        num_prompt = sum(step.num_tokens[step.num_decoding :]) + num_sources
        lanes = self.scheduler.lanes
        lane = (lanes.quarantine if step.is_quarantine else lanes.ordinary)[step.model]
        left = max(0, lane.token_budget - step.num_decoding)
        assert step.num_drafted <= left
        left = min(left - step.num_drafted, prompt_budget)
        assert num_prompt <= left + (num_sources > 0) or len({s.id for s in prompts}) == 1

    def _compute(self, step: ScheduledStep) -> None:
        """Writes as the model would, then looks at all that anybody will read, of this step and of later ones."""
        self._prepare(step)
        reached = {id(s): s.num_computed_tokens for s in self._live()}
        for sequence, count in zip(step.sequences, step.num_tokens, strict=True):
            first = sequence.num_computed_tokens
            reached[id(sequence)] = first + min(count, sequence.num_new_tokens)
            for place in range(first, first + count):
                self._write(sequence, sequence.block_table, place, _content(sequence, place))
            if sequence.token_ids and sequence.needs_encode:
                for place in range(len(sequence.source_ids)):
                    self._write(sequence, sequence.cross_block_table, place, _cross_content(sequence, place))
        for sequence in self._live():
            if sequence.status is Status.RUNNING and sequence.token_ids:
                for place in range(reached[id(sequence)]):
                    self._check(sequence, sequence.block_table, place, _content(sequence, place))
                for place in range(len(sequence.source_ids)):
                    self._check(sequence, sequence.cross_block_table, place, _cross_content(sequence, place))
                size = self.sizes[sequence.model]
                assert len(sequence.cross_block_table) == num_blocks(len(sequence.source_ids), size)

    def _prepare(self, step: ScheduledStep) -> None:
        for block in step.stale_blocks:
            self.pages[block] = (step.model, {})
        assert not {origin for origin, _ in step.copies} & {target for _, target in step.copies}
        for origin, target in step.copies:
            owner, cells = self.pages[origin]
            self.pages[target] = (owner, dict(cells))

    def _write(self, sequence: Sequence, table: list[int], place: int, content: object) -> None:
        size = self.sizes[sequence.model]
        owner, cells = self.pages[table[place // size]]
        assert owner in ("", sequence.model), "what another model wrote is cleared first"
        cells[place % size] = content
        self.pages[table[place // size]] = (sequence.model, cells)

    def _check(self, sequence: Sequence, table: list[int], place: int, content: object) -> None:
        size = self.sizes[sequence.model]
        owner, cells = self.pages[table[place // size]]
        assert (owner, cells[place % size]) == (sequence.model, content)


def _content(sequence: Sequence, place: int) -> object:
    """All that a position's keys and values depend on."""
    tokens = [*sequence.token_ids, *sequence.draft.token_ids]
    return (sequence.adapter, tuple(sequence.source_ids), tuple(tokens[: place + 1]))


def _cross_content(sequence: Sequence, place: int) -> object:
    return ("source", sequence.adapter, tuple(sequence.source_ids), place)


SchedulerMachine.TestCase.settings = settings(
    max_examples=200, stateful_step_count=50, deadline=None, derandomize=True
)
TestScheduler = SchedulerMachine.TestCase
