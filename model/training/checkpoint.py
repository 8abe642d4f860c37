"""Training checkpoints that are either whole or absent, whatever kills the process.

A checkpoint is a folder `checkpoint-STEP` with `tensors.safetensors` (weights, optimiser moments, averages, the best
weights so far) and `state.json` (counters). It is written beside its final name, flushed to the disk and then
renamed; older ones go after that. What is drawn at random follows from the step's number, and is not in it.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from model.training.best import BestWeights
from model.training.optim import NamedParameters, WeightAverage

_PREFIX = "checkpoint-"


@dataclass
class Counters:
    """How far a stage has come. `position` counts batches of the running epoch already used; `processor_s` is the time
    that all threads of this process computed, steps and checkpoints together."""

    step: int = 0
    epoch: int = 0
    position: int = 0
    num_tokens: int = 0
    elapsed_s: float = 0.0
    processor_s: float = 0.0
    is_over: bool = False


@dataclass
class TrainingState:
    """All that a stage needs to go on as if it had never stopped."""

    parameters: NamedParameters
    optimizer: torch.optim.Optimizer
    average: WeightAverage | None = None
    best: BestWeights | None = None
    at: Counters = field(default_factory=Counters)


def save_checkpoint(folder: Path, state: TrainingState) -> Path:
    """Write one checkpoint under `folder` and drop the ones before it."""
    tensors: dict[str, Tensor] = {}
    for name, parameter in state.parameters.items():
        tensors[f"weight/{name}"] = parameter.detach().contiguous()
        for key, value in state.optimizer.state.get(parameter, {}).items():
            tensors[f"{key}/{name}"] = torch.as_tensor(value).contiguous()
        if state.average is not None:
            tensors[f"average/{name}"] = state.average.shadow[name].contiguous()
        if state.best is not None and state.best.weights:
            tensors[f"best/{name}"] = state.best.weights[name].contiguous()
    told = {
        "counters": asdict(state.at),
        "num_averaged": state.average.num_updates if state.average else 0,
        "best": state.best.state() if state.best else None,
    }
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{_PREFIX}{state.at.step:08d}"
    with AtomicFolder(target) as temporary:
        save_file(tensors, temporary / "tensors.safetensors")
        (temporary / "state.json").write_text(json.dumps(told) + "\n", encoding="utf-8")
    for old in _checkpoints(folder):
        if old != target:
            shutil.rmtree(old, ignore_errors=True)
    return target


def load_checkpoint(folder: Path, state: TrainingState) -> bool:
    """Put the newest checkpoint under `folder` back into place; False where there is none."""
    found = _checkpoints(folder)
    if not found:
        return False
    tensors = load_file(found[-1] / "tensors.safetensors")
    told = json.loads((found[-1] / "state.json").read_text(encoding="utf-8"))
    best: dict[str, Tensor] = {}
    with torch.no_grad():
        for name, parameter in state.parameters.items():
            parameter.copy_(tensors[f"weight/{name}"])
            moments = ("step", "exp_avg", "exp_avg_sq")
            if f"step/{name}" in tensors:
                state.optimizer.state[parameter] = {
                    key: tensors[f"{key}/{name}"].to(parameter.device, copy=True) for key in moments
                }
            if state.average is not None:
                state.average.shadow[name].copy_(tensors[f"average/{name}"])
            if f"best/{name}" in tensors:
                best[name] = tensors[f"best/{name}"].to(parameter.device, copy=True)
    if state.average is not None:
        state.average.num_updates = told["num_averaged"]
    if state.best is not None and told["best"] is not None:
        state.best.load(told["best"], best)
    state.at = Counters(**told["counters"])
    return True


def drop_checkpoints(folder: Path) -> None:
    """Remove all checkpoints under `folder`, once a stage has ended."""
    for old in _checkpoints(folder):
        shutil.rmtree(old, ignore_errors=True)


def drop_leftovers(folder: Path) -> None:
    """Remove what a process that was killed was just writing under `folder`."""
    for pattern in (".writing-*", ".replaced-*", ".*.writing"):
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


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
