"""Training checkpoints that are either whole or absent, whatever kills the process.

A checkpoint is a folder `checkpoint-STEP` with `tensors.safetensors` (weights, optimiser moments,
averages, random state) and `state.json` (counters). It is written beside its final name, flushed to
the disk and then renamed; older ones go after that.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.training.optim import NamedParameters, WeightAverage

_PREFIX = "checkpoint-"


@dataclass
class Counters:
    """How far a stage has come. `position` counts batches of the running epoch already used."""

    step: int = 0
    epoch: int = 0
    position: int = 0
    num_tokens: int = 0
    elapsed_s: float = 0.0


def save_checkpoint(
    folder: Path,
    counters: Counters,
    parameters: NamedParameters,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
) -> Path:
    """Write one checkpoint under `folder` and drop the ones before it."""
    tensors: dict[str, Tensor] = {"random_state": torch.get_rng_state()}
    for name, parameter in parameters.items():
        tensors[f"weight/{name}"] = parameter.detach().contiguous()
        for key, value in optimizer.state.get(parameter, {}).items():
            tensors[f"{key}/{name}"] = torch.as_tensor(value).contiguous()
        if average is not None:
            tensors[f"average/{name}"] = average.shadow[name].contiguous()
    state = {**asdict(counters), "num_averaged": average.num_updates if average else 0}
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{_PREFIX}{counters.step:08d}"
    with AtomicFolder(target) as temporary:
        save_file(tensors, temporary / "tensors.safetensors")
        (temporary / "state.json").write_text(json.dumps(state) + "\n", encoding="utf-8")
    for old in _checkpoints(folder):
        if old != target:
            shutil.rmtree(old, ignore_errors=True)
    return target


def load_checkpoint(
    folder: Path,
    parameters: NamedParameters,
    optimizer: torch.optim.Optimizer,
    average: WeightAverage | None,
) -> Counters | None:
    """Put the newest checkpoint under `folder` back into place; None where there is none."""
    found = _checkpoints(folder)
    if not found:
        return None
    tensors = load_file(found[-1] / "tensors.safetensors")
    state = json.loads((found[-1] / "state.json").read_text(encoding="utf-8"))
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(tensors[f"weight/{name}"])
            moments = ("step", "exp_avg", "exp_avg_sq")
            if f"step/{name}" in tensors:
                optimizer.state[parameter] = {key: tensors[f"{key}/{name}"].clone() for key in moments}
            if average is not None:
                average.shadow[name].copy_(tensors[f"average/{name}"])
    num_averaged = state.pop("num_averaged")
    if average is not None:
        average.num_updates = num_averaged
    torch.set_rng_state(tensors["random_state"])
    return Counters(**state)


def drop_checkpoints(folder: Path) -> None:
    """Remove all checkpoints under `folder`, once a stage has ended."""
    for old in _checkpoints(folder):
        shutil.rmtree(old, ignore_errors=True)


class AtomicFolder:
    """A folder that appears under its name with all its files, or not at all."""

    def __init__(self, target: Path) -> None:
        self._target = target
        self._temporary = Path()

    def __enter__(self) -> Path:
        self._target.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = Path(tempfile.mkdtemp(prefix=".writing-", dir=self._target.parent))
        self._temporary.chmod(0o755)
        return self._temporary

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)
            return
        for path in sorted(self._temporary.rglob("*")):
            flush(path)
        flush(self._temporary)
        if self._target.exists():
            # A folder cannot replace a filled folder in one call: move the old one aside first.
            aside = Path(tempfile.mkdtemp(prefix=".replaced-", dir=self._target.parent))
            self._target.rename(aside / self._target.name)
            self._temporary.rename(self._target)
            shutil.rmtree(aside, ignore_errors=True)
        else:
            self._temporary.rename(self._target)
        flush(self._target.parent)


def flush(path: Path) -> None:
    """Have the operating system write a file or a folder's entries to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: Mapping[str, object]) -> None:
    """Replace a JSON file in one move."""
    temporary = path.with_name(f".{path.name}.writing")
    temporary.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    flush(temporary)
    temporary.replace(path)


def _checkpoints(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"{_PREFIX}*") if (path / "state.json").exists())
