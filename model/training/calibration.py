"""Makes a classifier's probabilities mean what they say: temperature scaling (Guo et al. 2017, arXiv:1706.04599).

All of it goes into the head's weights: whoever loads them, here or elsewhere, has it.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from model.heads import SequenceClassHead
from model.transformer import Transformer

NUM_BINS = 10
_PRIOR = 0.5
"""Standard deviation of log T before any row is seen: a few rows that are all right do not say "always sure"."""
_RANGE = (-2.0, 2.0)
_STEPS = 60
_MOST_BIAS = 200
"""Tenths; where even that loses nothing there are no rows of other classes to lose."""


def find_temperature(logits: Tensor, expected: Sequence[int]) -> float:
    """The T by which [n, num_labels] logits are to be divided so that the rows' labels are likeliest."""
    labels = torch.tensor(expected)

    def cost(log_t: float) -> float:
        loss = functional.cross_entropy(logits / math.exp(log_t), labels, reduction="sum")
        return float(loss) + 0.5 * (log_t / _PRIOR) ** 2

    low, high = _RANGE
    ratio = (math.sqrt(5) - 1) / 2  # golden section: the cost has one valley
    for _ in range(_STEPS):
        left, right = high - ratio * (high - low), low + ratio * (high - low)
        low, high = (low, right) if cost(left) < cost(right) else (left, high)
    return math.exp((low + high) / 2)


def find_bias(logits: Tensor, expected: Sequence[int], label: int, most_lost: float) -> float:
    """What to add to the logits of a class that says "none of the others", in tenths.

    The most by which the rows of other classes lose at most the share `most_lost` of right answers.
    """
    labels = torch.tensor(expected)
    others, expected_of = logits[labels != label], labels[labels != label]

    def accuracy(bias: float) -> float:
        shifted = others.clone()
        shifted[:, label] += bias
        return float((shifted.argmax(-1) == expected_of).float().mean())

    lowest = accuracy(0.0) - most_lost
    best = 0
    while best < _MOST_BIAS and accuracy((best + 1) / 10) >= lowest:
        best += 1
    return best / 10


@torch.no_grad()
def fold_bias(model: Transformer, head: str, label: int, bias: float) -> None:
    """Adds it to the head's own bias of the class: plain argmax heeds it."""
    module = model.heads[head]
    assert isinstance(module, SequenceClassHead)
    module.classifier.bias[label] += bias


@torch.no_grad()
def fold_temperature(model: Transformer, head: str, temperature: float) -> None:
    """Divides the head's last layer by it: whoever loads the weights has calibrated logits, and nothing to know of."""
    module = model.heads[head]
    assert isinstance(module, SequenceClassHead)
    for parameter in module.classifier.parameters():
        parameter.div_(temperature)


def calibration_error(logits: Tensor, expected: Sequence[int]) -> float:
    """Expected calibration error of [n, num_labels] logits, from 0 to 1."""
    confidence, predicted = logits.softmax(-1).max(-1)
    return binned_error(confidence.numpy(), (predicted == torch.tensor(expected)).numpy())


def binned_error(confidence: npt.NDArray[np.floating[Any]], is_right: npt.NDArray[np.bool_]) -> float:
    """How far confidence and accuracy are apart over NUM_BINS bins of equal width, from 0 to 1."""
    bins = np.minimum((confidence * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    gaps = np.bincount(bins, weights=is_right - confidence.astype(np.float64), minlength=NUM_BINS)
    return float(np.abs(gaps).sum()) / len(confidence)
