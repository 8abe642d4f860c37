"""`quartet train`: this process becomes `python -m model.training train`, since this side never loads torch."""

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import NoReturn

from app.errors import ConfigError

# -P: a folder of the user's own that is called `model` is not ours
COMMAND = (sys.executable, "-P", "-m", "model.training", "train")
_NEEDED = ("matplotlib", "sacrebleu", "tqdm")


def run(words: Sequence[str]) -> NoReturn:
    """Never returns: signals and the exit status are those of the training. Raises ConfigError without the extra."""
    absent = [name for name in _NEEDED if find_spec(name) is None]
    if absent:
        raise ConfigError(
            f"training needs the extra `train` ({absent[0]} is not installed): pip install 'quartet[train]'"
        )
    os.execv(COMMAND[0], [*COMMAND, *words])
