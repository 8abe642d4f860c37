"""A row of the comparison: what was scored, how surely, with how many parameters, after how much work."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

import numpy as np
from safetensors import safe_open

from model.training.checkpoint import write_json
from model.training.history.kneser_ney import Floats
from model.training.history.words import Ids
from model.training.intervals import resampled
from model.training.scoring import Scores

_FILE = "row.json"


@dataclass(frozen=True)
class Row:
    """`score` and its 95 % bootstrap interval; `f1` beside it where the task has one. `processor_s` is what training
    took of processors, None where it was not measured here."""

    score: float
    low: float
    high: float
    num_parameters: int
    processor_s: float | None = None
    f1: float | None = None

    def save(self, folder: Path) -> None:
        """Into its piece's folder, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / _FILE, asdict(self))

    @classmethod
    def read(cls, folder: Path) -> Self | None:
        """None where the piece is not finished."""
        path = folder / _FILE
        return cls(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else None


def perplexity_row(losses: Floats, articles: Ids, num_parameters: int, processor_s: float) -> Row:
    """From each word's -log p; whole articles are drawn anew, since what one is about makes all its words hard."""
    sums, sizes = np.bincount(articles, weights=losses), np.bincount(articles)
    score = resampled("perplexity", lambda some: math.exp(sums[some].sum() / sizes[some].sum()), len(sums))
    return Row(score.value, score.low, score.high, num_parameters, processor_s)


def scored_row(scores: Scores, measure: str, num_parameters: int, processor_s: float | None) -> Row:
    """From an evaluation's scores of one test set."""
    score, f1 = (_measured(scores, name) for name in (measure, "f1"))
    return Row(score["value"], score["low"], score["high"], num_parameters, processor_s, f1.get("value"))


def _measured(scores: Scores, name: str) -> Mapping[str, float]:
    found = scores.get(name, {})
    assert isinstance(found, dict)
    return found


def num_stored(*folders: Path) -> int:
    """Parameters in the weight files of some folders."""
    total = 0
    for folder in folders:
        for path in folder.glob("*.safetensors"):
            with safe_open(path, framework="pt") as file:
                names = list(file.keys())
                total += sum(math.prod(file.get_slice(name).get_shape()) for name in names)
    return total


def processor_seconds(stage: Path) -> float:
    """What a finished stage took, by its log."""
    lines = (stage / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return max(float(json.loads(line).get("processor_seconds", 0.0)) for line in lines)
