"""The scores against values worked out by hand."""

import pytest

from model.training.metrics import (
    accuracy,
    macro_f1,
    normalise_answer,
    recall,
    squad_scores,
    translation_scores,
)


def test_accuracy_and_recall_are_shares_in_per_cent() -> None:
    assert accuracy(["a", "b", "a", "c"], ["a", "b", "b", "b"]) == 50.0
    assert recall(["a", "oos", "oos", "b"], ["a", "oos", "b", "oos"], "oos") == 50.0


def test_macro_f1_weighs_all_classes_alike() -> None:
    # a: precision 1/2, recall 1 -> 2/3; b: precision 1, recall 2/3 -> 4/5
    assert macro_f1(["a", "a", "b", "b"], ["a", "b", "b", "b"]) == pytest.approx(100 * (2 / 3 + 4 / 5) / 2)


def test_answers_are_compared_without_case_articles_and_stops() -> None:
    assert normalise_answer("  The Cat's  hat, a big one.") == "cats hat big one"


def test_squad_takes_the_best_of_the_accepted_answers() -> None:
    # First: equal to the second answer. Second: two of three words shared, F1 = 2/3. Third: nothing shared.
    scores = squad_scores(
        ["the Red fox", "in old London", "Rome"], [["fox", "red fox"], ["in London town"], ["Paris"]]
    )
    assert scores["exact_match"] == pytest.approx(100 / 3)
    assert scores["f1"] == pytest.approx(100 * (1 + 2 / 3) / 3)


def test_an_empty_guess_is_only_right_where_the_answer_is_empty() -> None:
    assert squad_scores([""], [["word"]]) == {"exact_match": 0.0, "f1": 0.0}
    assert squad_scores(["the"], [["a"]]) == {"exact_match": 100.0, "f1": 100.0}


def test_equal_translations_score_full_marks_in_both_scripts() -> None:
    german = translation_scores(["Das ist ein Haus ."], ["Das ist ein Haus ."], "de")
    assert german["bleu"] == pytest.approx(100.0)
    assert german["chrf"] == pytest.approx(100.0)
    assert "tok:13a" in str(german["signature"])
    chinese = translation_scores(["我们在公园里"], ["我们在公园吃"], "zh")
    # Characters: 5/6, 4/5, 3/4, 2/3 of the n-grams match; their geometric mean is (1/3) ** (1/4).
    assert chinese["bleu"] == pytest.approx(100 * (1 / 3) ** 0.25)
    assert "tok:zh" in str(chinese["signature"])
