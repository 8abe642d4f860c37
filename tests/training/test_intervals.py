"""Intervals by bootstrap, and probabilities that mean what they say."""

import math

import numpy as np
import pytest
import torch

from model.training.calibration import (
    calibration_error,
    find_bias,
    find_temperature,
    fold_bias,
    fold_temperature,
)
from model.training.intervals import macro_f1_of, mean_score
from model.training.metrics import macro_f1
from model.transformer import OWN
from tests.tiny import BERT, random_model


def test_an_interval_is_as_wide_as_theory_says() -> None:
    values = [100.0] * 80 + [0.0] * 20
    score = mean_score("accuracy", values)
    half = 196 * math.sqrt(0.8 * 0.2 / 100)
    assert score.value == 80.0
    assert score.low == pytest.approx(80 - half, abs=1.5)
    assert score.high == pytest.approx(80 + half, abs=1.5)
    wider = mean_score("accuracy", values[::4])
    assert wider.high - wider.low > 1.5 * (score.high - score.low)


def test_rows_that_are_all_right_do_not_prove_that_all_others_are() -> None:
    score = mean_score("accuracy", [100.0] * 30)
    assert score.low == pytest.approx(88.43, abs=0.01)  # 0.8843 ** 30 = 0.025
    assert (score.value, score.high) == (100.0, 100.0)


def test_macro_f1_of_chosen_rows_is_that_of_the_metrics() -> None:
    draw = np.random.default_rng(3)
    expected, predicted = draw.integers(4, size=50).tolist(), draw.integers(4, size=50).tolist()
    statistic = macro_f1_of(predicted, expected, 4)
    for rows in (np.arange(50), np.array([0, 0, 7, 9, 9, 9, 21])):
        some = [predicted[row] for row in rows], [expected[row] for row in rows]
        assert statistic(rows) == pytest.approx(macro_f1(*some))


def test_the_temperature_undoes_what_logits_were_multiplied_by() -> None:
    torch.manual_seed(0)
    honest = torch.randn(4000, 3) * 1.5
    labels = torch.multinomial(honest.softmax(-1), 1)[:, 0].tolist()
    assert find_temperature(honest * 3.0, labels) == pytest.approx(3.0, rel=0.08)
    assert find_temperature(honest / 2.0, labels) == pytest.approx(0.5, rel=0.08)
    assert calibration_error(honest * 3.0, labels) > 4 * calibration_error(honest, labels)


def test_a_handful_of_right_rows_does_not_make_it_sure_of_itself() -> None:
    logits = torch.eye(3).repeat(3, 1) * 4.0
    assert 0.6 < find_temperature(logits, [0, 1, 2] * 3) < 1.0


def test_the_calibration_error_is_the_gap_between_saying_and_being_right() -> None:
    sure = torch.tensor([[math.log(0.85), math.log(0.15)]]).repeat(4, 1)
    assert calibration_error(sure, [0, 0, 0, 1]) == pytest.approx(0.10, abs=1e-6)
    assert calibration_error(sure, [1, 1, 1, 1]) == pytest.approx(0.85, abs=1e-6)


def test_a_folded_temperature_divides_the_logits() -> None:
    model = random_model(BERT)
    first = torch.randn(2, BERT.hidden_size, dtype=torch.float64)
    before = model.classify(first)
    fold_temperature(model, OWN, 2.5)
    assert torch.allclose(model.classify(first), before / 2.5)


def test_a_bias_finds_most_of_a_class_for_what_the_others_may_lose() -> None:
    # Ten rows of class 0, ahead of class 1 by 0.55, 1.55, … 9.55; four rows of class 1.
    logits = torch.tensor([[n + 0.55, 0.0] for n in range(10)] + [[3.0, 0.0]] * 4)
    expected = [0] * 10 + [1] * 4
    assert find_bias(logits, expected, 1, 0.0) == pytest.approx(0.5)
    assert find_bias(logits, expected, 1, 0.2) == pytest.approx(2.5)


def test_a_folded_bias_is_in_the_logits() -> None:
    model = random_model(BERT)
    first = torch.randn(2, BERT.hidden_size, dtype=torch.float64)
    before = model.classify(first)
    fold_bias(model, OWN, 1, 2.5)
    wanted = torch.zeros_like(before)
    wanted[:, 1] = 2.5
    assert torch.allclose(model.classify(first) - before, wanted)
