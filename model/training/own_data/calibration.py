"""Makes a classifier's probabilities mean what they say: temperature scaling (Guo et al. 2017, arXiv:1706.04599)."""

import math
from collections.abc import Sequence

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


@torch.no_grad()
def fold_temperature(model: Transformer, head: str, temperature: float) -> None:
    """Divides the head's last layer by it: whoever loads the weights has calibrated logits, and nothing to know of."""
    module = model.heads[head]
    assert isinstance(module, SequenceClassHead)
    for parameter in module.classifier.parameters():
        parameter.div_(temperature)


def calibration_error(logits: Tensor, expected: Sequence[int]) -> float:
    """Expected calibration error, from 0 to 1: how far confidence and accuracy are apart over bins of equal width."""
    confidence, predicted = logits.softmax(-1).max(-1)
    right = (predicted == torch.tensor(expected)).float()
    bins = (confidence * NUM_BINS).long().clamp(max=NUM_BINS - 1)
    total = 0.0
    for number in range(NUM_BINS):
        inside = bins == number
        if bool(inside.any()):
            total += float(inside.sum()) * abs(float(right[inside].mean() - confidence[inside].mean()))
    return total / len(expected)
