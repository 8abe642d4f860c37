"""When a text holds no answer: the score from which on a span counts, chosen on the questions kept for development."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from model.config import NO_ANSWER
from model.families import read_json
from model.training.checkpoint import write_json
from model.training.config import Recipe
from model.training.evaluate import Evaluation
from model.training.questions import strangers, training_questions


@dataclass(frozen=True)
class NoAnswer:
    """The value of having no answer; and, in per cent of the development questions with it, how many are answered
    beside their own contexts, and refused beside others of the same article and of other articles."""

    value: float
    answered: float
    refused_within: float
    refused_elsewhere: float


def choose(own: Sequence[float], within: Sequence[float], elsewhere: Sequence[float]) -> NoAnswer:
    """From the best spans' values: where own contexts and strange ones are told apart best, by the greatest sum of the
    share answered and the mean of the shares refused."""
    values = np.unique(np.concatenate([own, within, elsewhere]))
    cuts = (values[1:] + values[:-1]) / 2

    def below(found: Sequence[float]) -> npt.NDArray[np.float64]:
        return 100.0 * np.searchsorted(np.sort(found), cuts) / len(found)

    answered, refused = 100.0 - below(own), (below(within), below(elsewhere))
    best = int((answered + (refused[0] + refused[1]) / 2).argmax())
    shares = (float(share[best]) for share in (answered, *refused))
    return NoAnswer(float(cuts[best]), *shares)


def calibrate_no_answer(recipe: Recipe, data: Path, folder: Path, base: Path) -> dict[str, float]:
    """Chooses for the weights in `folder`, and writes the value into its `config.json`."""
    run = Evaluation(recipe, folder, base)
    asked = training_questions(data, is_dev=True)
    groups = (
        [one.question for one in asked],
        strangers(asked, of_same_article=True),
        strangers(asked, of_same_article=False),
    )
    with torch.inference_mode():
        chosen = choose(*([found.value for found in run.spans(group)] for group in groups))
    config = read_json(folder / "config.json")
    quartet = config.get("quartet", {}) | {NO_ANSWER: round(chosen.value, 3)}
    write_json(folder / "config.json", config | {"quartet": quartet})
    return asdict(chosen)
