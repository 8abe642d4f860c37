"""Since when somebody in a lane waits for a first token, and how many rows decode."""

from app.engine.lanes import Lane, Lanes
from app.engine.sequence import Sequence
from app.engine.speculation import Draft
from tests.engine.test_scheduler import sequence


def lane(running: list[Sequence], waiting: list[Sequence]) -> Lane:
    return Lane("a", 4, 100, waiting=waiting, running=running)


def speaking(number: int) -> Sequence:
    one = sequence(number)
    one.token_ids.append(7)
    return one


def text(number: int, arrival: float, length: int, source: int = 0) -> Sequence:
    """Came then, and has so many tokens to read."""
    one = sequence(number, length, source)
    one.arrival = arrival
    return one


def test_nobody_is_silent_where_all_have_spoken() -> None:
    assert lane([], []).silent_since is None
    assert lane([speaking(0), speaking(1)], []).silent_since is None


def test_the_first_to_come_of_those_in_prompts_and_in_line() -> None:
    assert lane([speaking(0), sequence(3), sequence(2)], []).silent_since == sequence(2).arrival
    assert lane([speaking(0)], [sequence(4), sequence(5)]).silent_since == sequence(4).arrival
    assert lane([speaking(0), sequence(2)], [sequence(4)]).silent_since == sequence(2).arrival
    assert lane([sequence(2), speaking(0)], [sequence(4)]).silent_since == sequence(2).arrival


def test_a_short_text_goes_before_a_long_one_that_came_just_before() -> None:
    lanes = Lanes(100)
    lanes.add("a", 4, 1.0)
    for number, (arrival, length) in enumerate(
        [(0.0, 400), (0.1, 100), (0.2, 400), (0.45, 20), (0.5, 9000), (0.55, 600), (0.9, 300)]
    ):
        lanes.join(text(number, arrival, length))
    assert [one.id for one in lanes.ordinary["a"].waiting] == [1, 0, 3, 2, 4, 5, 6], "half a second at most"


def test_a_source_counts_as_a_prompt_does() -> None:
    lanes = Lanes(100)
    lanes.add("a", 4, 1.0)
    for number, length in enumerate([50, 10]):
        lanes.join(text(number, 0.01 * number, 1, source=length))
    assert [one.id for one in lanes.ordinary["a"].waiting] == [1, 0]


def test_who_is_past_its_prompt_decodes_a_row_and_those_of_its_draft() -> None:
    begun, drafting = speaking(1), speaking(2)
    for one in (begun, drafting):
        one.num_computed_tokens = len(one.token_ids) - 1
    drafting.draft = Draft([5, 6], [0.5, 0.5])
    assert lane([begun, drafting, sequence(3)], [sequence(4)]).num_decoding == 4
