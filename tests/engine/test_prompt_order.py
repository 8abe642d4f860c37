"""Which prompts a step reads, and how much of each."""

import pytest

from app.engine.block_manager import BlockManager
from app.engine.scheduler import REST, Scheduler
from app.engine.sequence import Sequence
from tests.engine.test_scheduler import beams, commit, make, sequence


def came(number: int, arrival: float, prompt: int) -> Sequence:
    one = sequence(number, prompt)
    one.arrival = arrival
    return one


def read(scheduler: Scheduler, budget: int) -> list[tuple[int, int]]:
    """The next step with so many tokens of prompts, run: who is in it, with how many tokens."""
    step = scheduler.schedule({"a": budget})
    assert step is not None
    commit(scheduler, step)
    return [(s.id, count) for s, count in zip(step.sequences, step.num_tokens, strict=True)]


def test_a_short_prompt_goes_before_what_is_left_of_a_long_one() -> None:
    scheduler, _ = make(budget=100)
    scheduler.add(came(0, 0.0, 40))
    assert read(scheduler, 10) == [(0, 10)]
    scheduler.add(came(1, 0.01, 4))
    scheduler.add(came(2, 0.02, 30))
    assert read(scheduler, 10) == [(1, 4), (0, 6)]
    assert read(scheduler, 24) == [(1, 1), (0, 24)]
    assert read(scheduler, 24) == [(1, 1), (0, 1), (2, 24)]


@pytest.mark.parametrize(("prompt", "pieces"), [(14, [14]), (16, [16]), (17, [14, 3])])
def test_a_small_rest_of_a_prompt_goes_with_it(prompt: int, pieces: list[int]) -> None:
    scheduler, _ = make(budget=100)
    scheduler.add(sequence(0, prompt))
    assert 14 + 14 // REST == 16
    assert [read(scheduler, 14) for _ in pieces] == [[(0, piece)] for piece in pieces]


@pytest.mark.parametrize(("prompt", "pieces"), [(15, [15]), (16, [14, 2])])
def test_no_step_holds_more_than_the_engine_may(prompt: int, pieces: list[int]) -> None:
    scheduler, _ = make(budget=15)
    scheduler.add(sequence(0, prompt))
    assert [read(scheduler, 14) for _ in pieces] == [[(0, piece)] for piece in pieces]


def test_who_finds_no_block_does_not_hold_up_who_has_begun() -> None:
    scheduler, manager = make(blocks=12, budget=100)
    scheduler.add(came(0, 0.0, 40))
    assert read(scheduler, 10) == [(0, 10)]
    scheduler.add(came(1, 0.001, 20))
    assert manager.num_free < 20 // 4
    assert read(scheduler, 10) == [(0, 10)]
    assert [one.id for one in scheduler.lanes.ordinary["a"].waiting] == [1]


def test_sources_of_beams_that_are_encoded_again_leave_less_for_others() -> None:
    scheduler = Scheduler({"a": 4}, BlockManager(100), 100, 8, prefix_cache=False)
    beam = beams(0, [5], 2, [7] * 8)
    scheduler.add(beam)
    step = scheduler.schedule()
    assert step is not None
    scheduler.commit(step)
    assert beam.group is not None
    beam.group.members.append(scheduler.fork(beam))
    scheduler.ease(step)
    scheduler.lanes.ordinary["a"].token_budget = 100
    scheduler.add(came(1, 1.0, 10))
    assert read(scheduler, 20) == [(0, 1), (0, 1), (1, 2)], "two sources of eight are read"
