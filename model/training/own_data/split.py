"""Which examples are trained on, which choose among the weights, and which are kept for the end."""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from model.training.own_data.check import same_text
from model.training.own_data.columns import Task
from model.training.own_data.examples import Example

_LARGEST = 2000
"""Examples of a part that is only looked at: more would cost time and tell little."""


@dataclass(frozen=True)
class Split:
    """`dev` for early stopping and calibration, `test` for the scores, each with the order of the file."""

    train: list[Example]
    dev: list[Example]
    test: list[Example]


def split(examples: Sequence[Example], task: Task, dev: float, test: float, seed: int) -> Split:
    """Shares `dev` and `test` of the examples, drawn with `seed`; the rest to train on.

    Of each label the same shares are drawn, one at least where it has three rows or more. What has one text or one
    context stays together.
    """
    draw = random.Random(seed)
    strata: dict[str, dict[str, list[Example]]] = defaultdict(lambda: defaultdict(list))
    for example in examples:
        stratum = example.output if task == "classification" else ""
        strata[stratum][same_text(example.group)].append(example)
    parts: tuple[list[Example], list[Example], list[Example]] = ([], [], [])
    for stratum in sorted(strata):
        groups = list(strata[stratum].values())
        draw.shuffle(groups)
        cuts = [_size(len(groups), share, len(examples)) for share in (dev, test)]
        for number, group in enumerate(groups):
            parts[1 if number < cuts[0] else 2 if number < sum(cuts) else 0].extend(group)
    train, chosen, held_out = (sorted(part, key=lambda example: example.row) for part in parts)
    return Split(train, chosen, held_out)


def _size(count: int, share: float, total: int) -> int:
    if share == 0.0 or count < 3:
        return 0
    return max(1, round(count * min(share, _LARGEST / total)))
