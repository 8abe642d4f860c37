"""Guesses from a sequence's own text, how far they are trusted, and when they pay."""

import pytest

from app.engine.speculation import MARGIN, MAX_DRAFT, MAX_ORDER, NgramModel, Speculator, StepCost


def test_a_guess_is_the_most_frequent_follower_of_the_longest_run_seen() -> None:
    model = NgramModel()
    model.read([1, 2, 3, 9, 1, 2, 3, 9, 1, 2, 4, 8, 2, 4])
    assert model.guess([1, 2]) == (3, 2 / 4), "twice of three times, and one for what is new"
    assert model.guess([8, 2]) == (4, 1 / 2)
    assert model.guess([7, 2]) == (4, 0.4 * 2 / 5), "of equals the latest; one token less is worth less"
    assert model.guess([7]) is None
    assert model.guess([]) is None


def test_reading_goes_on_where_it_stopped() -> None:
    text = [5, 6, 7, 5, 6, 8, 5, 6, 7, 5]
    at_once, in_parts = NgramModel(), NgramModel()
    at_once.read(text)
    in_parts.read(text[:4])
    in_parts.read(text[:5], 4)
    in_parts.read(text, 5)
    for end in range(1, len(text)):
        assert at_once.guess(text[:end]) == in_parts.guess(text[:end])


def test_drafts_repeat_the_text_while_they_are_likely_enough() -> None:
    speculator = Speculator([])
    text = [3, 4, 5, 6, 7, 8] * 6
    assert speculator.draft(text, 5, 0.2).token_ids == [3, 4, 5, 6, 7]
    assert len(speculator.draft(text, 100, 0.0).token_ids) == MAX_DRAFT
    assert speculator.draft(text, 5, 0.9).token_ids == [], "five of five times is five sixths"
    assert speculator.draft([*text, 90], 5, 0.01).token_ids == [], "nobody has seen what follows 90"


def test_a_source_is_read_too() -> None:
    speculator = Speculator([11, 12, 13, 14, 15])
    draft = speculator.draft([0, 12, 13], 2, 0.01)
    assert draft.token_ids == [14, 15]
    assert draft.worths == [0.4 * 0.5, 0.4 * 0.5], "two tokens of three known, then three of four"


def test_guesses_that_fail_are_trusted_less_and_tried_again_later() -> None:
    speculator = Speculator([])
    text = [3, 4, 5] * 8
    for _ in range(12):
        draft = speculator.draft(text, 3, 0.0)
        speculator.judge(draft, 0)
    assert speculator.trust < 0.25
    assert speculator.draft(text, 3, 0.4).token_ids == []
    while speculator.trust < 0.8:
        assert len(text) < 2000
        text = [*text, *text[-3:]]
        speculator.draft(text, 3, 0.4)
    assert speculator.draft(text, 3, 0.4).token_ids[0] == 3


def test_trust_is_what_held_over_what_was_promised() -> None:
    speculator = Speculator([])
    text = [1, 2] * 20
    draft = speculator.draft(text, 4, 0.0)
    speculator.judge(draft, 2)  # the third was wrong, of the fourth nobody knows
    assert speculator.trust == pytest.approx((2.0 + 2) / (2.0 + sum(draft.worths[:3])))


@pytest.mark.parametrize(("fixed", "each"), [(8.0, 0.25), (1.0, 1.0), (0.0, 2.0)])
def test_the_floor_is_the_rows_share_of_a_step(fixed: float, each: float) -> None:
    cost = StepCost()
    for step in range(200):
        rows = 1 + step % 7
        cost.note(rows, fixed + each * rows)
    for rows in (1, 4, 16):
        assert cost.floor(rows) == pytest.approx(MARGIN * each * rows / (fixed + each * rows), abs=1e-6)


def test_no_row_is_free() -> None:
    cost = StepCost()
    for step in range(200):
        cost.note(1 + step % 7, 5.0)
    assert cost.floor(4) == pytest.approx(MARGIN * 0.1, abs=0.01)


def test_before_rows_vary_half_of_the_time_is_theirs() -> None:
    cost = StepCost()
    assert cost.floor(4) == MARGIN * 0.5
    for _ in range(5):
        cost.note(4, 0.02)
    assert cost.floor(4) == pytest.approx(MARGIN * 0.5)


def test_a_run_is_no_longer_than_the_order() -> None:
    model = NgramModel()
    text = list(range(20)) * 2
    model.read(text)
    assert max(map(len, model._followers)) == MAX_ORDER
