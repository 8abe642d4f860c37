"""How long a new request would wait, and who is refused for it."""

import pytest

from app.caller import Caller
from app.engine.journal import Journal
from app.engine.line import Line
from app.engine.protocol import GenerateRequest, Tokens
from app.engine.sampling_params import SamplingParams
from app.errors import Overloaded
from tests.engine.test_journal import Clock, answered, encode

TEXT = GenerateRequest(model="m", prompt_ids=[1], params=SamplingParams(max_tokens=5))


def crowd(line: Line, count: int, sender: str = "many", now: float = 0.0) -> list[Caller]:
    callers = [Caller(sender) for _ in range(count)]
    for one in callers:
        line.join(one, now)
    return callers


def held(count: int = 100, per_second: int = 2) -> Line:
    """Of so many that came at 0, by 10 so many a second have begun, the first of them before it could be known that
    there is no room."""
    line = Line()
    waiting = iter(crowd(line, count))
    for number in range(10 * per_second):
        line.begin(next(waiting), now=(number + 1) / per_second)
    return line


def test_who_would_begin_too_late_is_too_many() -> None:
    line = held()
    assert line.excess(Caller("many"), 20.0, 10.0) == 80 - 38
    assert line.excess(Caller("many"), 50.0, 10.0) == 0
    assert line.promise(10.0, 19.0) == 10.0
    assert line.promise(10.0, 19.0) == 20.0, "others were told before"


def test_senders_take_turns_so_one_with_few_has_few_before_it() -> None:
    line = held()
    crowd(line, 3, "few", now=9.0)
    crowd(line, 1, "one", now=9.0)
    for sender, num_before in (("many", 84), ("few", 4 + 3 + 1), ("one", 2 + 2 + 1), ("new", 3)):
        assert line.excess(Caller(sender), 1.0, 10.0) == pytest.approx(num_before - 1.9), sender


def test_one_who_leaves_is_no_sign_of_speed_and_before_nobody() -> None:
    line = Line()
    callers = crowd(line, 50)
    for one in callers[:8]:
        line.begin(one, now=5.0)
    for one in callers[8:38]:
        line.leave(one)
        line.leave(one)
    assert line.excess(Caller("many"), 5.0, 5.0) == 12 - 8
    for one in callers[38:]:
        line.leave(one)
    assert (line.excess(Caller("many"), 30.0, 9.0), len(line._since), line._senders) == (0, 0, {})


def test_nothing_is_known_before_the_first_has_waited_and_for_some_seconds_after() -> None:
    """Many that come at once while there was little to do are no queue."""
    line = Line()
    one, *others = crowd(line, 200)
    line.begin(one, now=0.9)
    assert line.excess(Caller("many"), 30.0, 10.0) == 0, "nobody has begun while others waited"
    for number, other in enumerate(others[:20]):
        line.begin(other, now=10.0 + number / 20)
    assert line.excess(Caller("many"), 30.0, 11.0) > 0
    line = Line()
    for number, other in enumerate(crowd(line, 200)[:10]):
        line.begin(other, now=1.0 + number / 10)
    assert line.excess(Caller("many"), 5.0, 2.9) == 0
    assert line.excess(Caller("many"), 5.0, 3.1) > 0


def test_a_few_who_begin_slowly_say_nothing_yet() -> None:
    """An engine that is started again keeps some waiting."""
    line = Line()
    for number, other in enumerate(crowd(line, 20)[:8]):
        assert line.excess(Caller("many"), 5.0, 4.0 + number) == 0
        line.begin(other, now=4.0 + number)
    assert line.excess(Caller("many"), 5.0, 11.0) > 0


def test_prompts_that_are_computed_one_after_the_other_count_as_begun() -> None:
    """Nobody has ended yet: sixty texts have said their first token, a hundred wait, ten begin each second."""
    line = Line()
    for number, one in enumerate(crowd(line, 160)[:60]):
        line.begin(one, now=(number + 1) / 10)
    assert line.excess(Caller("many"), 12.0, 6.0) == 0
    assert line.excess(Caller("many"), 12.0, 26.0) > 0, "now nobody has begun for long"


def test_the_journal_refuses_by_the_line_of_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    journal = Journal(max_requests=1000, max_tokens=100_000, max_wait=5.0)
    texts = [journal.admit([TEXT] * 3, print, Caller("a", "/texts")) for _ in range(40)]
    for number in range(10):
        clock.now += 1.0
        journal.deliver(Tokens(id=texts[number][1].id, token_ids=[1]))  # one of the caller's three is enough
        journal.deliver(Tokens(id=texts[number][2].id, token_ids=[1]))
    with pytest.raises(Overloaded, match="it would wait for more than 5 s") as refused:
        journal.check_room(1, 10, Caller("a", "/texts"))
    assert refused.value.retry_after == 25.0
    journal.check_room(1, 10, Caller("b", "/texts"))
    [labels] = journal.admit([encode(10)], print, Caller("a", "/labels"))
    journal.deliver(answered(labels.id))
    assert list(journal._lines) == ["/texts"], "of those for whom nobody waits nothing is kept"
    for text in texts[10:]:
        for request in text:
            journal.release(request.id)
    journal.admit([TEXT], print, Caller("a", "/texts"))
