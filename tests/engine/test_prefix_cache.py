"""What is computed once is found again: by whom, how much of it, and for how long."""

import pytest

from app.engine.block_manager import BlockManager
from app.engine.scheduler import Scheduler
from app.engine.sequence import Sequence
from tests.engine.test_scheduler import beams, commit, make, planned, sequence_of, set_budget

TEXT = list(range(100, 140))


def run(scheduler: Scheduler, *sequences: Sequence) -> None:
    """Adds them and steps until all have ended."""
    for sequence in sequences:
        scheduler.add(sequence)
    while scheduler.has_work:
        planned(scheduler)


def test_a_block_is_found_until_it_is_taken_the_longest_idle_first() -> None:
    manager = BlockManager(4)
    blocks, _ = manager.allocate("a", 3)
    for block, key in zip(blocks, (b"x", b"y", b"z"), strict=True):
        manager.register(block, key)
    manager.free("a", [blocks[1], blocks[0]])
    assert (manager.num_free, manager.num_held("a")) == (3, 1)
    assert [manager.find(key) for key in (b"x", b"y", b"z", b"?")] == [*blocks, None]
    manager.share([blocks[1]])
    assert (manager.num_free, manager.num_held("a")) == (2, 2)
    manager.free("a", [blocks[1]])
    taken, stale = manager.allocate("a", 2)
    assert taken[1] == blocks[0], "after the one without a key, the one that was freed before"
    assert not stale
    assert [manager.find(key) for key in (b"x", b"y", b"z")] == [None, blocks[1], blocks[2]]


def test_a_block_that_another_model_takes_is_stale_and_not_found_again() -> None:
    manager = BlockManager(1)
    blocks, _ = manager.allocate("a", 1)
    manager.register(blocks[0], b"x")
    manager.free("a", blocks)
    assert manager.allocate("b", 1) == (blocks, blocks)
    assert manager.find(b"x") is None
    assert (manager.num_held("a"), manager.num_held("b")) == (0, 1)


@pytest.mark.parametrize(("length", "cached"), [(3, 0), (4, 0), (5, 4), (8, 4), (9, 8), (20, 8)])
def test_a_prompt_takes_over_full_blocks_but_never_its_last_token(length: int, cached: int) -> None:
    scheduler, _ = make(budget=100)
    run(scheduler, sequence_of(0, TEXT[:9], [], outputs=1))
    scheduler.add(sequence_of(1, TEXT[:length], []))
    step = scheduler.schedule()
    assert step is not None
    assert step.num_tokens == [length - cached]
    assert step.sequences[0].num_cached_tokens == cached


def test_generated_tokens_are_found_too_and_other_ones_are_not() -> None:
    scheduler, _ = make(budget=100)
    first = sequence_of(0, TEXT[:6], [], outputs=8)
    run(scheduler, first)
    said = list(first.token_ids)
    assert len(said) == 14
    for number, token_ids, cached in (
        (1, [*said, 7], 12),
        (2, [*said[:7], 99, *said[8:]], 4),
        (3, said[1:], 0),
    ):
        again = sequence_of(number, token_ids, [], outputs=1)
        run(scheduler, again)
        assert again.num_cached_tokens == cached


def test_equal_prompts_that_come_together_are_computed_once() -> None:
    scheduler, manager = make(budget=100)
    for i in range(3):
        scheduler.add(sequence_of(i, TEXT[:9], [], outputs=2))
    assert planned(scheduler) == [(0, 9), (1, 1), (2, 1)]
    assert manager.num_free == 100 - 2 - 3
    assert planned(scheduler) == [(0, 1), (1, 1), (2, 1)]
    assert manager.num_free == 100


def test_a_long_prompt_can_be_followed_while_it_is_computed() -> None:
    scheduler, _ = make(budget=10)
    scheduler.add(sequence_of(0, TEXT[:25], [], outputs=1))
    assert planned(scheduler) == [(0, 10)]
    scheduler.add(sequence_of(1, TEXT[:26], [], outputs=1))
    assert planned(scheduler) == [(0, 10)]
    assert planned(scheduler) == [(0, 5), (1, 2)]


def test_equal_sources_are_encoded_once_whether_they_come_together_or_later() -> None:
    scheduler, manager = make(budget=100)
    sources = [TEXT[:10], TEXT[:10], TEXT[:9]]
    for i, source in enumerate(sources):
        scheduler.add(sequence_of(i, [0], source, outputs=2))
    step = scheduler.schedule()
    assert step is not None
    assert [s.needs_encode for s in step.sequences] == [True, False, True]
    assert [s.num_cached_tokens for s in step.sequences] == [0, 10, 0]
    first, second, third = (s.cross_block_table for s in step.sequences)
    assert first == second
    assert not set(first) & set(third)
    commit(scheduler, step)
    planned(scheduler)
    assert (scheduler.has_work, manager.num_free) == (False, 100)
    later = sequence_of(3, [0], TEXT[:9], outputs=2)
    scheduler.add(later)
    assert planned(scheduler) == [(3, 1)]
    assert later.num_cached_tokens == 9


def test_a_decoder_behind_another_source_shares_nothing() -> None:
    scheduler, _ = make(budget=100)
    for number, source in enumerate((TEXT[:10], TEXT[:9])):
        one = sequence_of(number, [0] * 9, source, outputs=1)
        scheduler.add(one)
        assert planned(scheduler) == [(number, 9)]
        assert one.num_cached_tokens == 0


def test_models_and_adapters_keep_to_themselves() -> None:
    scheduler, _ = make(budget=100, a=4, b=4)
    for number, (model, adapter) in enumerate((("a", None), ("a", "x"), ("b", None), ("b", "x"))):
        one = sequence_of(number, TEXT[:9], [], model, 1, adapter=adapter)
        run(scheduler, one)
        assert one.num_cached_tokens == 0
    again = sequence_of(9, TEXT[:9], [], "b", 1, adapter="x")
    run(scheduler, again)
    assert again.num_cached_tokens == 8


def test_beams_that_part_are_found_each_by_what_it_said() -> None:
    scheduler, _ = make(budget=100)
    first = beams(0, TEXT[:6], 2)
    assert first.group is not None
    scheduler.add(first)
    for said in range(4):
        step = scheduler.schedule()
        assert step is not None
        scheduler.commit(step)
        if not said:
            first.group.members.append(scheduler.fork(first))
        for start, member in zip((50, 60), first.group.members, strict=True):
            member.token_ids.append(start + said)
    scheduler.abort([0])
    for number, start in ((1, 50), (2, 60), (3, 70)):
        again = sequence_of(number, [*TEXT[:6], *range(start, start + 4)], [], outputs=1)
        run(scheduler, again)
        assert again.num_cached_tokens == (4 if start == 70 else 8)


def test_the_preempted_go_on_from_what_nobody_has_taken() -> None:
    scheduler, _ = make(blocks=6, budget=100)
    first, second = sequence_of(0, TEXT[:4], [], outputs=9), sequence_of(1, TEXT[20:36], [], outputs=1)
    scheduler.add(first)
    scheduler.add(second)
    set_budget(scheduler, 16)
    assert planned(scheduler) == [(0, 4), (1, 12)]
    set_budget(scheduler, 1)
    step = scheduler.schedule()
    while step is not None and not step.preempted:
        commit(scheduler, step)
        step = scheduler.schedule()
    assert step is not None
    commit(scheduler, step)
    assert not second.block_table
    set_budget(scheduler, 100)
    later = []
    while scheduler.has_work:
        later += planned(scheduler)
    assert later[-1] == (1, 4), "its three full blocks were still there"
    assert (first.num_completion_tokens, second.num_completion_tokens) == (9, 1)
    assert second.num_cached_tokens == 0, "what it computed itself was not in the cache when it came"


def test_a_step_that_failed_leaves_nothing_to_be_found() -> None:
    scheduler, manager = make(budget=100)
    scheduler.add(sequence_of(0, TEXT[:9], TEXT[:9]))
    step = scheduler.schedule()
    assert step is not None
    scheduler.finish(step.sequences[0], "error")
    scheduler.add(sequence_of(1, TEXT[:9], TEXT[:9]))
    step = scheduler.schedule()
    assert step is not None
    assert step.num_tokens == [9]
    assert step.sequences[0].needs_encode
    assert manager.num_free == 100 - 6


def test_nothing_is_found_where_it_is_off() -> None:
    scheduler = Scheduler({"a": 4}, BlockManager(100), 100, 8, prefix_cache=False)
    for number in range(2):
        scheduler.add(sequence_of(number, TEXT[:9], TEXT[:5], outputs=1))
    step = scheduler.schedule()
    assert step is not None
    assert step.num_tokens == [9, 9]
    assert all(s.needs_encode for s in step.sequences)
