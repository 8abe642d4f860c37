"""`quartet download`, and what `--model NAME=org/repo` does before serving: from the hub to a folder."""

import sys
from pathlib import Path

from app.errors import ConfigError
from model import hub


def run(name: str, to: str | None) -> int:
    """Prints the folder, for scripts; everything else goes to stderr."""
    print(fetch(name, Path(to) if to else None))
    return 0


def fetch(name: str, to: Path | None = None) -> Path:
    """The folder of `org/repo[@revision]`. Raises ConfigError without the extra, CheckpointError for all else."""
    try:
        return hub.download(name, to, say=_say)
    except ModuleNotFoundError as absent:
        raise ConfigError(
            f"{name}: no such folder, and to download it the extra `hub` is needed "
            f"({absent.name} is not installed): pip install 'huggingface_hub>=2.4'"
        ) from None


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
