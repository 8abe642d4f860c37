"""Policy without tensors: budgets, turns, preemption. `test_scheduler_model` drives it with anything."""

import msgspec
import pytest

from app.engine.block_manager import BlockManager
from app.engine.protocol import EncodeRequest, GenerateRequest
from app.engine.sampling_params import SamplingParams
from app.engine.scheduled_step import ScheduledStep
from app.engine.scheduler import Scheduler
from app.engine.sequence import BeamGroup, Sequence, Status
from app.engine.speculation import Draft
from model.beam_search import BeamSearch, BeamSettings


def sequence(
    number: int, prompt: int = 3, source: int = 0, model: str = "a", outputs: int = 5, priority: int = 0
) -> Sequence:
    """With tokens of its own."""
    start = 1000 * number
    return sequence_of(
        number, [*range(start, start + prompt)], [*range(start, start + source)], model, outputs, priority
    )


def sequence_of(
    number: int,
    token_ids: list[int],
    source_ids: list[int],
    model: str = "a",
    outputs: int = 5,
    priority: int = 0,
    adapter: str | None = None,
    behind: int = 0,
) -> Sequence:
    """An encoder's where there are no `token_ids`. Each arrives a second after the one with the number before."""
    request: GenerateRequest | EncodeRequest
    if token_ids:
        params = SamplingParams(max_tokens=outputs)
        request = GenerateRequest(id=number, model=model, prompt_ids=[], params=params)
    else:
        request = EncodeRequest(id=number, model=model, ids=[], output="class")
    request = msgspec.structs.replace(request, priority=priority, behind=behind)
    return Sequence(
        request, model, adapter, number, source_ids, token_ids, len(token_ids), max_tokens=outputs
    )


def commit(scheduler: Scheduler, step: ScheduledStep) -> None:
    """What the engine does after a step: who has everything computed is one token longer, or ends."""
    scheduler.commit(step)
    for s in step.sequences:
        if s.num_new_tokens:
            continue
        if s.token_ids:
            s.token_ids.append(0)
        if not s.token_ids or s.num_completion_tokens >= s.max_tokens:
            scheduler.finish(s, "length")


def set_budget(scheduler: Scheduler, token_budget: int) -> None:
    """Of each step from now on."""
    for lane in scheduler.lanes.every:
        lane.token_budget = lane.most_tokens = token_budget


def make(blocks: int = 100, budget: int = 10, most: int = 8, **sizes: int) -> tuple[Scheduler, BlockManager]:
    manager = BlockManager(blocks)
    return Scheduler(sizes or {"a": 4}, manager, budget, most), manager


def planned(scheduler: Scheduler) -> list[tuple[int, int]]:
    """The next step, run: who is in it, with how many tokens."""
    step = scheduler.schedule()
    assert step is not None
    commit(scheduler, step)
    return [(s.id, count) for s, count in zip(step.sequences, step.num_tokens, strict=True)]


def test_sequences_join_while_the_budget_lasts() -> None:
    scheduler, _ = make(budget=10)
    for i in range(5):
        scheduler.add(sequence(i, prompt=4))
    assert planned(scheduler) == [(0, 4), (1, 4), (2, 2)], "the last one is cut where the budget ends"
    assert planned(scheduler) == [(0, 1), (1, 1), (2, 2), (3, 4), (4, 2)], (
        "decodes, begun prompts, new prompts"
    )


def test_a_prompt_over_the_budget_takes_several_steps_between_which_others_decode() -> None:
    scheduler, _ = make(budget=10)
    scheduler.add(sequence(0, prompt=2, outputs=4))
    assert planned(scheduler) == [(0, 2)]
    scheduler.add(sequence(1, prompt=30, outputs=1))
    assert [planned(scheduler) for _ in range(4)] == [
        [(0, 1), (1, 9)],
        [(0, 1), (1, 9)],
        [(0, 1), (1, 9)],
        [(1, 3)],
    ]
    assert not scheduler.has_work


def test_a_source_is_never_cut_and_waits_for_a_step_where_it_fits_or_is_alone() -> None:
    scheduler, _ = make(budget=10)
    scheduler.add(sequence(0, prompt=4))
    scheduler.add(sequence(1, prompt=1, source=30))
    scheduler.add(sequence(2, prompt=6, source=6))
    assert planned(scheduler) == [(0, 4)]
    assert planned(scheduler) == [(0, 1), (1, 1)], "as a source longer than the budget may be"
    assert planned(scheduler) == [(0, 1), (1, 1), (2, 2)], "its decoder tokens are cut like a prompt"
    assert planned(scheduler) == [(0, 1), (1, 1), (2, 4)]


def test_many_who_decode_leave_nothing_for_prompts_until_some_end() -> None:
    scheduler, _ = make(budget=3)
    for i in range(3):
        scheduler.add(sequence(i, prompt=1, outputs=2 + i))
    assert planned(scheduler) == [(0, 1), (1, 1), (2, 1)]
    scheduler.add(sequence(3, prompt=3, outputs=1))
    assert planned(scheduler) == [(0, 1), (1, 1), (2, 1)]
    assert planned(scheduler) == [(1, 1), (2, 1), (3, 1)]
    assert planned(scheduler) == [(2, 1), (3, 2)]


def test_a_large_one_is_not_starved_by_small_ones_of_another_model() -> None:
    scheduler, _ = make(blocks=8, budget=100, a=4, b=4)
    scheduler.add(sequence(0, prompt=4, model="b", outputs=9))
    assert planned(scheduler) == [(0, 4)]
    scheduler.add(sequence(1, prompt=28, model="a", outputs=1))
    scheduler.charge(ScheduledStep("b"), 1.0)
    for i in range(2, 40):
        scheduler.add(sequence(i, prompt=4, model="b", outputs=9))
    order = [number for _ in range(12) for number, _ in planned(scheduler)]
    assert order.index(1) < order.index(2)


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


def test_a_level_of_priority_is_worth_five_seconds_of_waiting() -> None:
    scheduler, _ = make(budget=100)
    for number, priority in ((0, -1), (4, 0), (6, 0), (13, 1)):
        scheduler.add(sequence(number, priority=priority))
    assert [number for number, _ in planned(scheduler)] == [4, 0, 6, 13]


def test_the_lowest_priority_is_not_starved() -> None:
    scheduler, _ = make(budget=3, most=1)
    scheduler.add(sequence(0, outputs=1, priority=-10))
    ran = []
    for second in range(1, 60):
        scheduler.add(sequence(second, outputs=1))
        ran += [number for number, _ in planned(scheduler)]
    assert ran.index(0) == 49


def test_a_draft_takes_no_block_that_somebody_is_about_to_need() -> None:
    for blocks, length in ((4, 2), (5, 2), (6, 6)):
        scheduler, _ = make(blocks=blocks, budget=100, a=4)
        for number in range(2):
            scheduler.add(sequence(number, prompt=4 - 3 * number, outputs=20))
        step = scheduler.schedule()
        assert step is not None
        commit(scheduler, step)
        second = step.sequences[1]
        second.draft = Draft([7] * 6, [0.9] * 6)
        step = scheduler.schedule()
        assert step is not None
        assert step.num_tokens == [1, 1 + length], "without a block to spare only what its own block holds"
        assert step.num_drafted == length
        commit(scheduler, step)
        assert second.num_computed_tokens == 2, "what was drafted is not computed before it holds"


def test_a_model_of_twice_the_weight_has_twice_the_time() -> None:
    scheduler, _ = make(a=4)
    scheduler.add_model("b", 4, weight=2.0)
    for number, model in enumerate("ab"):
        scheduler.add(sequence(number, model=model, outputs=100))
    turns = ""
    for _ in range(30):
        step = scheduler.schedule()
        assert step is not None
        turns += step.model
        scheduler.charge(step, 1.0)
        commit(scheduler, step)
    assert (turns.count("a"), turns.count("b")) == (10, 20)


def test_models_take_turns_by_device_time() -> None:
    scheduler, _ = make(a=4, b=4)
    scheduler.add(sequence(0, model="a", outputs=50))
    scheduler.add(sequence(1, model="b", outputs=50))
    turns = []
    for _ in range(30):
        step = scheduler.schedule()
        assert step is not None
        turns.append(step.model)
        scheduler.charge(step, 2.0 if step.model == "a" else 1.0)
        commit(scheduler, step)
    assert turns.count("a") == 10


def test_idle_time_earns_no_credit() -> None:
    scheduler, _ = make(a=4, b=4)
    scheduler.add(sequence(0, model="a", outputs=50))
    scheduler.charge(ScheduledStep("a"), 100.0)
    scheduler.add(sequence(1, model="b", outputs=50))
    turns = []
    for _ in range(10):
        step = scheduler.schedule()
        assert step is not None
        turns.append(step.model)
        scheduler.charge(step, 1.0)
        commit(scheduler, step)
    assert turns.count("a") == 5


def test_the_last_in_order_is_preempted_and_computed_again() -> None:
    scheduler, manager = make(blocks=4, budget=100)
    first, second = sequence(0, prompt=4, outputs=9), sequence(1, prompt=4, outputs=9)
    scheduler.add(first)
    scheduler.add(second)
    preempted: list[int] = []
    while scheduler.has_work:
        step = scheduler.schedule()
        assert step is not None
        preempted += step.preempted
        if step.preempted:
            assert second.status is Status.WAITING
            assert second.num_computed_tokens == 0
            assert not second.block_table
        commit(scheduler, step)
    assert preempted == [second.id]
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


def beams(number: int, token_ids: list[int], width: int, source_ids: list[int] | None = None) -> Sequence:
    """The first beam of a search, alone in its group."""
    first = sequence_of(number, token_ids, source_ids or [], outputs=9)
    settings = BeamSettings(num_beams=width, max_tokens=9, end_token_ids=())
    first.group = BeamGroup(BeamSearch(settings), [first])
    return first


def test_forks_share_blocks_and_copy_the_one_that_they_write_to() -> None:
    scheduler, manager = make(budget=100, a=4)
    first = beams(0, [5] * 6, 3, [7] * 5)
    scheduler.add(first)
    step = scheduler.schedule()
    assert step is not None
    scheduler.commit(step)
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


def test_a_group_of_beams_is_preempted_whole_and_computed_again_in_one_step() -> None:
    scheduler, manager = make(blocks=8, budget=100, a=4)
    first, beam = sequence(0, prompt=16, outputs=9), beams(1, [5] * 4, 2)
    scheduler.add(first)
    scheduler.add(beam)
    step = scheduler.schedule()
    assert step is not None
    scheduler.commit(step)
    assert beam.group is not None
    members = beam.group.members
    members.append(scheduler.fork(beam))
    while step is not None and not step.preempted:
        for number, one in enumerate((first, *members)):
            one.token_ids.append(number)
        step = scheduler.schedule()
        assert step is not None
        scheduler.commit(step)
    assert step.sequences == [first], "its sixth block is the ninth of eight"
    assert [member.status for member in members] == [Status.WAITING] * 2
    assert [len(member.token_ids) for member in members] == [9, 9]
    scheduler.finish(first, "stop")
    set_budget(scheduler, 3)
    step = scheduler.schedule()
    assert step is not None
    assert step.sequences == members
    assert step.num_tokens == [5, 5], (
        "all that is not in the one block they share; a budget does not part them"
    )
    assert manager.num_held("a") == 1 + 2 + 2
