"""What answers to test sets score, against values worked out by hand."""

import numpy as np
import pytest

from model.training.calibration import binned_error
from model.training.metrics import ranking_quality
from model.training.no_answer import choose
from model.training.questions import Asked, strangers
from model.training.scoring import Answerable, Answers, Found, Guess, Labels, Scores, Translations, some_of
from model.training.spans import Question


def value(scores: Scores, name: str) -> float:
    measure = scores[name]
    assert isinstance(measure, dict)
    assert measure["low"] - 1e-9 <= measure["value"] <= measure["high"] + 1e-9
    return measure["value"]


def test_labels_in_and_out_of_scope_are_counted_apart() -> None:
    expected = ["a", "a", "b", "b", "oos", "oos"]
    seconds = ("b", "a", "a", "b", "a", "a")
    said = zip(("a", "oos", "b", "a", "oos", "b"), seconds, strict=True)
    guesses = [Guess(label, 0.75, second) for label, second in said]
    scores = Labels(["text"] * 6, expected).score(guesses)
    assert scores["examples"] == 6
    assert value(scores, "in_scope_accuracy") == 50.0
    assert value(scores, "in_scope_accuracy_unrefused") == 75.0
    assert value(scores, "in_scope_refused") == 25.0
    assert value(scores, "out_of_scope_recall") == 50.0
    assert value(scores, "accuracy") == 50.0
    assert value(scores, "ece") == pytest.approx(25.0)  # half are right, all say three quarters


def test_labels_without_a_scope_have_no_scores_of_it() -> None:
    scores = Labels(["x", "y"], ["a", "b"]).score([Guess("a", 0.9), Guess("a", 0.9)])
    assert set(scores) == {"examples", "accuracy", "macro_f1", "ece"}


def test_confidence_is_held_against_accuracy_bin_by_bin() -> None:
    confidence, is_right = np.array([0.95, 0.95, 0.15, 0.15]), np.array([True, True, False, True])
    assert binned_error(confidence, is_right) == pytest.approx((2 * 0.05 + 2 * 0.35) / 4)


def test_ranking_quality_counts_pairs_and_equals_by_half() -> None:
    # Pairs (positive, negative): 3 > 1, 3 > 2, 2 > 1 are won, 2 = 2 counts half.
    assert ranking_quality([3.0, 2.0, 1.0, 2.0], [True, True, False, False]) == pytest.approx(100 * 3.5 / 4)
    assert ranking_quality([1.0], [True]) == 50.0


def test_answers_score_as_squad_does() -> None:
    questions = [Question("1", "q", "c", ("red fox",)), Question("2", "q", "c", ("Paris",))]
    scores = Answers(questions).score([Found("the red fox", 0.1, False), Found("Rome", 0.2, False)])
    assert value(scores, "exact_match") == value(scores, "f1") == 50.0


def test_refusals_are_right_beside_strange_contexts_and_wrong_beside_own_ones() -> None:
    one = Question("1", "q", "c", ("a",))
    test = Answerable([one] * 2, [one] * 3)
    chances = [(0.1, False), (0.7, True), (0.9, True), (0.6, True), (0.3, False)]
    scores = test.score([Found("a", chance, refused) for chance, refused in chances])
    assert len(test.questions) == 5
    assert value(scores, "answered") == 50.0
    assert value(scores, "refused") == pytest.approx(200 / 3)
    assert value(scores, "no_answer_auroc") == pytest.approx(100 * 4 / 6)


def test_translations_have_both_scores_and_their_signature() -> None:
    scores = Translations("de", ["a"] * 2, ["Das ist ein Haus ."] * 2).score(["Das ist ein Haus ."] * 2)
    assert value(scores, "bleu") == pytest.approx(100.0)
    assert value(scores, "chrf") == pytest.approx(100.0)
    assert "tok:13a" in str(scores["signature"])


def test_some_rows_are_spread_over_all() -> None:
    assert some_of(list(range(10)), 4) == [0, 2, 5, 7]
    assert some_of([1, 2], 4) == some_of([1, 2], None) == [1, 2]


def asked(title: str, context: str, answer: str) -> Asked:
    return Asked(Question(context, "q", context, (answer,), ((0, 1),)), title)


def test_strangers_are_of_the_wanted_article_and_hold_no_answer() -> None:
    all_asked = [
        asked("A", "one cat", "cat"),
        asked("A", "two Cats", "two"),
        asked("A", "three", "three"),
        asked("B", "four", "four"),
    ]
    within = strangers(all_asked, of_same_article=True)
    # The next paragraph of "one cat" has its answer in it, and B has no other paragraph.
    assert [question.context for question in within] == ["three", "three", "one cat"]
    elsewhere = strangers(all_asked, of_same_article=False)
    assert [question.context for question in elsewhere] == ["four", "four", "four", "two Cats"]
    assert not any(question.spans for question in elsewhere)


def test_the_value_of_no_answer_tells_own_contexts_from_strange_ones_best() -> None:
    chosen = choose(own=[5.0, 6.0, 7.0, 1.0], within=[4.0, 2.0], elsewhere=[0.0, -1.0, -2.0])
    assert chosen.value == pytest.approx(4.5)
    assert (chosen.answered, chosen.refused_within, chosen.refused_elsewhere) == (75.0, 100.0, 100.0)
