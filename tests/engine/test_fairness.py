"""Who goes first when many ask: requests of thousands of sequences beside single ones, one sender beside others."""

import pytest

from app.caller import Caller
from app.engine.journal import Journal
from app.engine.protocol import EncodeRequest, Request
from app.engine.sequence import Sequence
from app.engine.turns import Turns
from tests.engine.test_scheduler import commit, make, planned, sequence_of


def test_each_of_a_senders_sequences_stands_behind_those_it_has_in_flight() -> None:
    turns = Turns()
    first, second, other = Caller("a"), Caller("a"), Caller("b")
    assert [turns.join(first, 0, 1) for _ in range(4)] == [0, 1, 2, 3]
    assert [turns.join(second, 0, 1) for _ in range(3)] == [1, 3, 5], "among two requests turns go round"
    assert turns.join(other, 0, 1) == 0
    for _ in range(4):
        turns.leave(first, 1)
    assert turns.join(second, 0, 1) == 3, "now the turns are its own"
    assert turns.held(second) == (4, 4)


def test_requests_of_lower_priority_put_none_of_higher_back() -> None:
    turns = Turns()
    for _ in range(10):
        turns.join(Caller("a"), -1, 1)
    assert turns.join(Caller("a"), 0, 1) == 0
    assert turns.join(Caller("a"), -1, 1) == 11


def test_one_who_has_left_is_forgotten() -> None:
    turns, caller = Turns(), Caller("a")
    turns.join(caller, 0, 5)
    assert caller in turns
    turns.leave(caller, 5)
    assert caller not in turns
    assert (turns.held(caller), turns.join(Caller("a"), 0, 1)) == ((0, 0), 0)
    assert len(turns._senders) == len(turns._calls) == 1


def test_a_single_text_does_not_wait_for_thousands_that_came_before() -> None:
    journal, (scheduler, _) = Journal(4096, 10**6), make(budget=10, most=12)
    crowd = journal.admit([encode()] * 2048, print, Caller())
    for request in crowd:
        scheduler.add(sequence(request, arrival=0.0))
    for _ in range(20):
        planned(scheduler)
    [single] = journal.admit([encode()], print, Caller())
    scheduler.add(sequence(single, arrival=0.1))
    assert [number for number, _ in planned(scheduler)][:3] == [crowd[200].id, crowd[201].id, single.id]


def test_a_sender_of_thousands_of_requests_does_not_make_another_wait_for_them() -> None:
    journal, (scheduler, _) = Journal(4096, 10**6), make(budget=10)
    for _ in range(2000):
        [request] = journal.admit([encode()], print, Caller("crowd"))
        scheduler.add(sequence(request, arrival=0.0))
    planned(scheduler)
    [single] = journal.admit([encode()], print, Caller("one"))
    scheduler.add(sequence(single, arrival=0.1))
    assert single.id in [number for number, _ in planned(scheduler)]


@pytest.mark.parametrize("sender", ["crowd", "another"])
def test_long_texts_of_one_request_leave_places_in_the_batch_to_others(sender: str) -> None:
    journal, (scheduler, _) = Journal(4096, 10**6), make(blocks=2000, budget=100, most=64)
    crowd = journal.admit([encode()] * 100, print, Caller("crowd"))
    for request in crowd:
        scheduler.add(sequence(request, arrival=0.0, outputs=100))
    for second in range(20):  # long after its turn has come, the next one of the crowd waits for a place
        step = scheduler.schedule()
        assert step is not None
        commit(scheduler, step)
        assert [s.id for s in step.sequences] == [request.id for request in crowd[:58]], second
    for arrival in (90.0, 91.0, 92.0):
        [single] = journal.admit([encode()], print, Caller(sender))
        scheduler.add(sequence(single, arrival, outputs=3))
        for _ in range(3):
            step = scheduler.schedule()
            assert step is not None
            assert single.id in [s.id for s in step.sequences]
            commit(scheduler, step)
        journal.release(single.id)
    while scheduler.has_work:
        step = scheduler.schedule()
        assert step is not None
        commit(scheduler, step)


def test_many_who_come_later_do_not_keep_the_last_of_a_large_request_waiting_for_ever() -> None:
    """Each second one text is computed and another one comes: those of the large request get their turns."""
    journal, (scheduler, _) = Journal(4096, 10**6), make(budget=1)
    crowd = journal.admit([encode()] * 20, print, Caller("crowd"))
    for request in crowd:
        scheduler.add(sequence(request, arrival=0.0))
    taken: list[int] = []
    while not {request.id for request in crowd} <= set(taken):
        [late] = journal.admit([encode()], print, Caller(str(len(taken))))
        scheduler.add(sequence(late, arrival=len(taken)))
        taken += [number for number, _ in planned(scheduler)]
    assert taken.index(crowd[-1].id) <= 2 * 5 * len(crowd)
    assert taken.index(crowd[-1].id) > 2 * len(crowd), "they have not all gone first, either"


def encode() -> EncodeRequest:
    return EncodeRequest(model="a", ids=[1], output="class")


def sequence(request: Request, arrival: float, outputs: int = 0) -> Sequence:
    """An encoder's, or with `outputs` a decoder's."""
    token_ids = [request.id] if outputs else []
    one = sequence_of(request.id, token_ids, [] if outputs else [1], outputs=outputs, behind=request.behind)
    one.arrival = arrival
    return one
