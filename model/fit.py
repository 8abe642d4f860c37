"""Whether the tensors that a folder stores are those that its config needs, told by their names.

`python -m model.fit FOLDER` prints it as JSON, for whoever must not import torch. Reads headers, no weights.
"""

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from model.config import CheckpointError
from model.families import FAMILIES, read_config
from model.loading import WORDS, unfilled_model, wanted_tensors
from model.stored import read_tensors


@dataclass(frozen=True)
class Fit:
    """Published names. `ignored` are stored and harmless: copies of tied tables, buffers, unused heads."""

    num_parameters: int
    used: list[str]
    ignored: list[str]
    missing: list[str]
    left_over: list[str]


def compare_names(folder: Path) -> Fit:
    """What `model.loading.load_model` would say of the names in `folder`.

    Raises CheckpointError for a config without a model and for headers that cannot be read.
    """
    config, stored = read_config(folder), read_tensors(folder)
    family = FAMILIES[config.family]
    model = unfilled_model(config, folder)
    wanted = wanted_tensors(model, family)
    used: list[str] = []
    ignored: list[str] = []
    copies: list[str] = []
    left_over: list[str] = []
    filled: set[str] = set()
    for name in stored:
        ours = wanted.get(name) or wanted.get(family.base_prefix + name)
        if ours is not None:
            used.append(name)
            filled.update(ours)
        elif re.fullmatch(family.copies, name):
            copies.append(name)
        else:
            (ignored if re.fullmatch(family.harmless, name) else left_over).append(name)
    if copies and WORDS not in filled:
        used.append(copies.pop(0))
        filled.add(WORDS)
    missing = [
        theirs
        for theirs, ours in wanted.items()
        if not filled.issuperset(ours) and not re.fullmatch(family.zero_if_missing, theirs)
    ]
    return Fit(model.num_parameters, used, ignored + copies, missing, left_over)


def main(arguments: Sequence[str]) -> int:
    """Prints the fit, or `{"error": …}`."""
    folder = Path(arguments[0])
    try:
        told: dict[str, object] = asdict(compare_names(folder))
    except CheckpointError as fault:
        told = {"error": str(fault)}
    sys.stdout.write(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
