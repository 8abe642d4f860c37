"""Scores with the range that other test rows of the same kind would give: percentile bootstrap (Efron 1979)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

NUM_RESAMPLES = 1000
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Score:
    """A measure on the test rows; 95 % of resampled test sets score from `low` to `high`."""

    name: str
    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.name} {self.value:.2f} ({self.low:.2f} to {self.high:.2f})"


def mean_score(name: str, values: Sequence[float]) -> Score:
    """The mean of one number a row."""
    numbers = np.array(values, dtype=np.float64)
    return resampled(name, lambda rows: float(numbers[rows].mean()), len(values))


def resampled(name: str, statistic: Callable[[Indices], float], num_rows: int) -> Score:
    """Any statistic in per cent of chosen rows, of which some come more than once and others not at all.

    Where not one row is wrong, resampling sees no error at all; then the lower end is what is sure of so many rows
    without an error (Clopper and Pearson 1934).
    """
    draw = np.random.default_rng(0)
    many = [statistic(draw.integers(num_rows, size=num_rows)) for _ in range(NUM_RESAMPLES)]
    low, high = np.percentile(many, [2.5, 97.5])
    value = statistic(np.arange(num_rows))
    if value == low == 100.0:
        low = 100.0 * 0.025 ** (1 / num_rows)
    return Score(name, value, float(low), float(high))


def macro_f1_of(
    predicted: Sequence[int], expected: Sequence[int], num_labels: int
) -> Callable[[Indices], float]:
    """`model.training.metrics.macro_f1` as a statistic of chosen rows, in per cent."""
    cells = np.array(expected) * num_labels + np.array(predicted)

    def statistic(rows: Indices) -> float:
        table = np.bincount(cells[rows], minlength=num_labels**2).reshape(num_labels, num_labels)
        there = table.sum(1) > 0
        f1 = 2 * table.diagonal()[there] / (table.sum(0) + table.sum(1))[there]
        return 100.0 * float(f1.mean())

    return statistic


def corpus_score(name: str, metric: Any, guesses: Sequence[str], expected: Sequence[str]) -> Score:
    """By a metric of sacrebleu's. Its own bootstrap fails where some resamples score 0, so counts are resampled."""
    whole = metric.corpus_score(list(guesses), [list(expected)])
    counts = np.array(metric._extract_corpus_statistics(list(guesses), [list(expected)]))

    def statistic(rows: Indices) -> float:
        return float(metric._compute_score_from_stats(counts[rows].sum(0).tolist()).score)

    score = resampled(name, statistic, len(counts))
    return Score(name, whole.score, score.low, score.high)
