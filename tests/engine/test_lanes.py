"""Since when somebody in a lane waits for a first token."""

from app.engine.lanes import Lane
from app.engine.sequence import Sequence
from tests.engine.test_scheduler import sequence


def lane(running: list[Sequence], waiting: list[Sequence]) -> Lane:
    return Lane("a", 4, 100, waiting=waiting, running=running)


def speaking(number: int) -> Sequence:
    one = sequence(number)
    one.token_ids.append(7)
    return one


def test_nobody_is_silent_where_all_have_spoken() -> None:
    assert lane([], []).silent_since is None
    assert lane([speaking(0), speaking(1)], []).silent_since is None


def test_the_first_to_come_of_those_in_prompts_and_in_line() -> None:
    """Who is in a prompt stands behind those who speak."""
    assert lane([speaking(0), sequence(3), sequence(2)], []).silent_since == sequence(2).arrival
    assert lane([speaking(0)], [sequence(4), sequence(5)]).silent_since == sequence(4).arrival
    assert lane([speaking(0), sequence(2)], [sequence(4)]).silent_since == sequence(2).arrival
