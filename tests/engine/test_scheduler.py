"""Policy without tensors: budgets, turns, preemption, and blocks that are neither lost nor shared."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engine.block_manager import BlockManager, num_blocks
from app.engine.protocol import EncodeRequest, GenerateRequest
from app.engine.sampling_params import SamplingParams
from app.engine.scheduler import ScheduledStep, Scheduler
from app.engine.sequence import BeamGroup, Sequence, Status
from model.beam_search import BeamSearch, BeamSettings


def sequence(
    number: int, prompt: int = 3, source: int = 0, model: str = "a", outputs: int = 5, priority: int = 0
) -> Sequence:
    request: GenerateRequest | EncodeRequest
    if prompt:
        params = SamplingParams(max_tokens=outputs)
        request = GenerateRequest(id=number, model=model, prompt_ids=[], params=params, priority=priority)
    else:
        request = EncodeRequest(id=number, model=model, ids=[], output="class", priority=priority)
    return Sequence(request, model, None, number, [0] * source, [0] * prompt, prompt, max_tokens=outputs)


def commit(scheduler: Scheduler, step: ScheduledStep) -> None:
    """What the engine does after a step: everything is computed, each decoder sequence is one longer."""
    for s in step.sequences:
        s.is_encoded = True
        s.num_computed_tokens = len(s.token_ids)
        if s.token_ids:
            s.token_ids.append(0)
        if not s.token_ids or s.num_completion_tokens >= s.max_tokens:
            scheduler.finish(s, "length")


def make(blocks: int = 100, budget: int = 10, most: int = 8, **sizes: int) -> tuple[Scheduler, BlockManager]:
    manager = BlockManager(blocks)
    return Scheduler(sizes or {"a": 4}, manager, budget, most), manager


def test_sequences_join_while_the_budget_lasts() -> None:
    scheduler, _ = make(budget=10)
    for i in range(5):
        scheduler.add(sequence(i, prompt=4))
    first = scheduler.schedule()
    assert first is not None
    assert [s.id for s in first.sequences] == [0, 1]
    commit(scheduler, first)
    second = scheduler.schedule()
    assert second is not None
    assert [s.id for s in second.sequences] == [0, 1, 2, 3], "two decode, two join with what is left"
    assert second.num_decoding == 2


def test_a_prompt_over_the_budget_is_the_only_new_one_of_its_step() -> None:
    scheduler, _ = make(budget=10)
    scheduler.add(sequence(0, prompt=30))
    scheduler.add(sequence(1, prompt=2))
    step = scheduler.schedule()
    assert step is not None
    assert [s.id for s in step.sequences] == [0]


def test_no_more_run_than_the_batch_may_hold() -> None:
    scheduler, _ = make(budget=1000, most=3)
    for i in range(5):
        scheduler.add(sequence(i))
    step = scheduler.schedule()
    assert step is not None
    assert len(step.sequences) == 3


def test_higher_priority_goes_first() -> None:
    scheduler, _ = make(budget=3)
    scheduler.add(sequence(0))
    scheduler.add(sequence(1, priority=5))
    step = scheduler.schedule()
    assert step is not None
    assert [s.id for s in step.sequences] == [1]


def test_models_take_turns_by_device_time() -> None:
    scheduler, _ = make(a=4, b=4)
    scheduler.add(sequence(0, model="a", outputs=50))
    scheduler.add(sequence(1, model="b", outputs=50))
    turns = []
    for _ in range(30):
        step = scheduler.schedule()
        assert step is not None
        turns.append(step.model)
        scheduler.charge(step.model, 2.0 if step.model == "a" else 1.0)
        commit(scheduler, step)
    assert turns.count("a") == 10


def test_idle_time_earns_no_credit() -> None:
    scheduler, _ = make(a=4, b=4)
    scheduler.add(sequence(0, model="a", outputs=50))
    scheduler.charge("a", 100.0)
    scheduler.add(sequence(1, model="b", outputs=50))
    turns = []
    for _ in range(10):
        step = scheduler.schedule()
        assert step is not None
        turns.append(step.model)
        scheduler.charge(step.model, 1.0)
        commit(scheduler, step)
    assert turns.count("a") == 5


def test_the_last_in_order_is_preempted_and_computed_again() -> None:
    scheduler, manager = make(blocks=4, budget=100)
    first, second = sequence(0, prompt=4, outputs=9), sequence(1, prompt=4, outputs=9)
    scheduler.add(first)
    scheduler.add(second)
    preempted = 0
    while scheduler.has_work:
        step = scheduler.schedule()
        assert step is not None
        preempted += step.num_preempted
        if step.num_preempted:
            assert second.status is Status.WAITING
            assert second.num_computed_tokens == 0
            assert not second.block_table
        commit(scheduler, step)
    assert preempted == 1
    assert manager.num_free == 4
    assert (first.num_completion_tokens, second.num_completion_tokens) == (9, 9)


def test_blocks_that_another_model_wrote_are_named() -> None:
    manager = BlockManager(2)
    blocks, stale = manager.allocate("a", 2)
    assert not stale
    manager.free("a", blocks)
    again, stale = manager.allocate("b", 1)
    assert stale == again
    assert manager.num_held("a") == 0
    with pytest.raises(ValueError, match="1 free"):
        manager.allocate("a", 2)


def test_a_block_is_free_when_its_last_holder_lets_go() -> None:
    manager = BlockManager(3)
    blocks, _ = manager.allocate("a", 2)
    manager.share(blocks)
    assert manager.is_shared(blocks[0])
    assert manager.num_held("a") == 2, "shared blocks count once"
    manager.free("a", blocks)
    assert (manager.num_free, manager.is_shared(blocks[0])) == (1, False)
    manager.free("a", blocks)
    assert (manager.num_free, manager.num_held("a")) == (3, 0)


def beams(number: int, prompt: int, width: int, model: str = "a", source: int = 0) -> Sequence:
    params = SamplingParams(max_tokens=9, num_beams=width)
    request = GenerateRequest(id=number, model=model, prompt_ids=[], params=params)
    settings_ = BeamSettings(num_beams=width, max_tokens=9, end_token_ids=())
    first = Sequence(request, model, None, number, [0] * source, [0] * prompt, prompt, max_tokens=9)
    first.group = BeamGroup(BeamSearch(settings_), [first])
    return first


def test_forks_share_blocks_and_copy_the_one_that_they_write_to() -> None:
    scheduler, manager = make(a=4)
    first = beams(0, prompt=6, width=3, source=5)
    scheduler.add(first)
    assert scheduler.schedule() is not None
    first.num_computed_tokens, first.is_encoded = 6, True
    assert first.group is not None
    first.group.members += [scheduler.fork(first), scheduler.fork(first)]
    assert manager.num_held("a") == 4, "two for the prompt, two for the source"
    for member in first.group.members:
        member.token_ids.append(0)
    step = scheduler.schedule()
    assert step is not None
    assert step.sequences == first.group.members, "all in one step"
    last = {member.block_table[1] for member in first.group.members}
    assert len(last) == 3, "each writes to a block of its own"
    assert {member.block_table[0] for member in first.group.members} == {first.block_table[0]}
    assert len(step.copies) == 2
    assert {target for _, target in step.copies} < last
    assert {origin for origin, _ in step.copies} == last - {target for _, target in step.copies}
    scheduler.drop(first.group.members.pop(0))
    assert manager.num_held("a") == 4 + 2 - 1, "one of the three last blocks is free, all else is shared"
    scheduler.abort([0])
    assert manager.num_free == manager.num_blocks


def test_a_group_of_beams_is_preempted_whole_and_waits_for_room_for_all() -> None:
    scheduler, manager = make(blocks=8, budget=100, a=4)
    scheduler.add(sequence(0, prompt=8, outputs=20))
    scheduler.add(beams(1, prompt=4, width=2))
    step = scheduler.schedule()
    assert step is not None
    first, group = step.sequences[0], step.sequences[1].group
    assert group is not None
    group.members.append(scheduler.fork(group.members[0]))
    first.num_computed_tokens, first.token_ids = 8, [0] * 28
    for member in group.members:
        member.num_computed_tokens = 4
        member.token_ids.append(0)
    step = scheduler.schedule()
    assert step is not None
    assert step.sequences == [first], "needs seven of eight blocks"
    assert [member.status for member in group.members] == [Status.WAITING] * 2
    assert step.num_preempted == 1
    scheduler.finish(first, "stop")
    step = scheduler.schedule()
    assert step is not None
    assert step.sequences == group.members
    assert manager.num_held("a") == 4, "computed again, they share nothing"


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000), blocks=st.integers(12, 30), budget=st.integers(1, 40))
def test_in_any_order_of_arrivals_and_aborts_everyone_ends_once_and_no_block_is_lost(
    seed: int, blocks: int, budget: int
) -> None:
    source = random.Random(seed)
    scheduler, manager = make(blocks, budget, 5, a=4, b=2, c=3)
    waiting, ended = [], 0
    for i in range(25):
        model = source.choice("abc")
        prompt, words = (0, source.randint(1, 20)) if model == "c" else (source.randint(1, 6), 0)
        if model == "b":
            words = source.randint(1, 8)
        waiting.append(sequence(i, prompt, words, model, source.randint(1, 6), source.randint(-1, 1)))
    everyone = list(waiting)
    for _ in range(2000):
        if waiting and source.random() < 0.5:
            scheduler.add(waiting.pop(0))
        elif not waiting and not scheduler.has_work:
            break
        if source.random() < 0.1:
            ended += len(scheduler.abort([source.randrange(25)]))
        step = scheduler.schedule()
        if step is None:
            assert not scheduler.has_work, "somebody can always go on"
            continue
        held = [b for s in everyone for b in s.block_table + s.cross_block_table]
        assert len(held) == len(set(held)), "no block is shared"
        assert len(held) + manager.num_free == blocks, "no block is lost"
        for s in step.sequences:
            assert s.status is Status.RUNNING
            if s.token_ids:
                size = scheduler.lanes[s.model].block_size
                assert len(s.block_table) >= num_blocks(len(s.token_ids), size)
                assert len(s.cross_block_table) == num_blocks(len(s.source_ids), size)
        scheduler.charge(step.model, source.random())
        commit(scheduler, step)
    assert all(s.status is Status.FINISHED for s in everyone)
    assert manager.num_free == blocks
    assert ended == sum(s.finish_reason == "abort" for s in everyone)
