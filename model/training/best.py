"""Keeps the weights that scored best on the development data, and says when to stop looking for better ones."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from model.training.optim import NamedParameters


class BestWeights:
    """What the best validation so far found, and how many came after it."""

    def __init__(self, choose_by: Sequence[str], patience: int) -> None:
        """`choose_by` and `patience` as in `Schedule`."""
        self._choose_by, self._patience = choose_by, patience
        self.weights: dict[str, Tensor] = {}
        self.scores: dict[str, float] = {}
        self.step = 0
        self.num_since = 0

    def offer(self, parameters: NamedParameters, step: int, scores: Mapping[str, float]) -> None:
        """Takes the weights where they score better than the best; of equals the earlier stay."""
        self.num_since += 1
        if self.weights and self._rank(scores) <= self._rank(self.scores):
            return
        self.weights = {name: p.detach().clone() for name, p in parameters.items()}
        self.scores, self.step, self.num_since = dict(scores), step, 0

    @property
    def is_over(self) -> bool:
        """Whether patience has run out."""
        return 0 < self._patience <= self.num_since

    @torch.no_grad()
    def restore(self, parameters: NamedParameters) -> None:
        """Puts the best weights in place."""
        for name, weight in self.weights.items():
            parameters[name].copy_(weight)

    def state(self) -> dict[str, Any]:
        """All but the weights, for JSON."""
        return {"scores": self.scores, "step": self.step, "num_since": self.num_since}

    def load(self, state: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        """The other way round than `state`."""
        self.weights = dict(weights)
        self.scores, self.step, self.num_since = dict(state["scores"]), state["step"], state["num_since"]

    def _rank(self, scores: Mapping[str, float]) -> list[float]:
        """Greater is better."""
        return [
            -scores[name.removeprefix("-")] if name.startswith("-") else scores[name]
            for name in self._choose_by
        ]
