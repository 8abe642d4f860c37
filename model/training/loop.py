"""The training loop: one stage from its first step to its last, stoppable at any moment.

Owns stepping, the clock, checkpoints, the log and the progress bar. What is learned is the
objective's business, where weights come from and go to is the command's.
"""

import contextlib
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol, Self

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from model.training.checkpoint import Counters, load_checkpoint, save_checkpoint
from model.training.config import Precision, Schedule
from model.training.data import bucketed_batches
from model.training.optim import (
    WeightAverage,
    build_optimizer,
    clip_gradients,
    learning_rate,
    set_learning_rate,
    trainable,
)
from model.transformer import Transformer

Batch = dict[str, Tensor]


class Objective(Protocol):
    """What a stage learns."""

    lengths: list[tuple[int, ...]]
    """The token counts of each training example, one a side."""

    def collate(self, indices: list[int], seed: int) -> Batch:
        """The padded tensors of some examples; `seed` decides whatever is drawn (masks, crops)."""
        ...

    def loss(self, model: Transformer, batch: Batch) -> tuple[Tensor, int]:
        """The mean loss and over how many predictions it was taken."""
        ...

    def validate(self, model: Transformer) -> dict[str, float]:
        """Scores on the development data; may be empty."""
        ...


@contextlib.contextmanager
def precision_context(precision: Precision) -> Iterator[None]:
    """Autocast to bfloat16 where asked for, and attention written out.

    On short rows the CPU's fused attention spends more time in its backward pass than all else together.
    """
    with (
        sdpa_kernel(SDPBackend.MATH),
        torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"),
    ):
        yield


def train(
    model: Transformer,
    objective: Objective,
    schedule: Schedule,
    run: Path,
    *,
    checkpoint_minutes: float = 5.0,
    stop_after: int | None = None,
) -> dict[str, float]:
    """Run a stage in the folder `run`, from its newest checkpoint where there is one.

    Ends after `max_epochs` passes or `max_minutes` of work, whichever comes first, and leaves the
    averaged weights in the model where the schedule asks for an average. `stop_after` leaves after so
    many steps as if killed, without a checkpoint of its own. Returns the last validation's scores.
    """
    torch.manual_seed(schedule.seed)
    parameters = trainable(model)
    optimizer = build_optimizer(parameters, schedule)
    average = WeightAverage(parameters, schedule.average) if schedule.average else None
    at = load_checkpoint(run, parameters, optimizer, average) or Counters()
    num_batches = len(_batches(objective, schedule, 0))
    total = max(1, schedule.max_epochs * num_batches // schedule.accumulation)
    started = time.monotonic() - at.elapsed_s
    saved = time.monotonic()
    progress = _progress(at, schedule, total)
    model.train()
    with _Log(run / "log.jsonl", at.step) as log, tqdm(total=100.0, desc=run.name, bar_format=_BAR) as bar:
        for group in _groups(objective, schedule, at):
            rate = learning_rate(schedule, at.step, progress)
            set_learning_rate(optimizer, rate)
            loss, num_predictions, num_tokens = _accumulate(model, objective, schedule, group)
            norm = clip_gradients(parameters.values(), schedule.max_gradient_norm)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            if average is not None:
                average.update(parameters)
            at.step += 1
            at.num_tokens += num_tokens
            at.elapsed_s = time.monotonic() - started
            progress = _progress(at, schedule, total)
            log.write(
                step=at.step, loss=loss, rate=rate, norm=norm, tokens=at.num_tokens,
                predictions=num_predictions, seconds=round(at.elapsed_s, 2),
            )  # fmt: skip
            bar.set_postfix_str(
                f"loss {loss:.3f}, {at.num_tokens / at.elapsed_s:.0f} tokens/s", refresh=False
            )
            bar.update(min(100.0, 100.0 * progress) - bar.n)
            if stop_after is not None and at.step >= stop_after:
                return {}
            if progress >= 1.0:
                break
            if time.monotonic() - saved > 60.0 * checkpoint_minutes:
                log.flush()
                save_checkpoint(run, at, parameters, optimizer, average)
                saved = time.monotonic()
        if average is not None:
            average.swap(parameters)
        model.eval()
        scores = objective.validate(model)
        log.write(step=at.step, **{f"dev_{name}": value for name, value in scores.items()})
    return scores


_BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}"


def _progress(at: Counters, schedule: Schedule, total: int) -> float:
    """How much of the stage is over, by its steps or by its clock, whichever is further on."""
    return max(at.step / total, at.elapsed_s / (60.0 * schedule.max_minutes))


def _batches(objective: Objective, schedule: Schedule, epoch: int) -> list[list[int]]:
    seed = schedule.seed * 1000 + epoch
    return bucketed_batches(objective.lengths, schedule.batch_tokens, schedule.batch_examples, seed)


def _groups(objective: Objective, schedule: Schedule, at: Counters) -> Iterator[list[Batch]]:
    """The batches of each coming step; moves `at` past them."""
    group: list[Batch] = []
    while at.epoch < schedule.max_epochs:
        batches = _batches(objective, schedule, at.epoch)
        while at.position < len(batches):
            seed = (schedule.seed * 1000 + at.epoch) * 1_000_003 + at.position
            group.append(objective.collate(batches[at.position], seed))
            at.position += 1
            if len(group) == schedule.accumulation:
                yield group
                group = []
        at.epoch, at.position = at.epoch + 1, 0


def _accumulate(
    model: Transformer, objective: Objective, schedule: Schedule, group: list[Batch]
) -> tuple[float, int, int]:
    """Gradients of a step; returns the loss, its number of predictions, and the tokens read."""
    total, num_predictions, num_tokens = 0.0, 0, 0
    for batch in group:
        with precision_context(schedule.precision):
            loss, count = objective.loss(model, batch)
        torch.autograd.backward(loss / len(group))
        total += float(loss.detach()) / len(group)
        num_predictions += count
        num_tokens += sum(int(value.sum()) for name, value in batch.items() if name.endswith("mask"))
    return total, num_predictions, num_tokens


class _Log:
    """The stage's JSON-lines log; a resumed stage drops what came after its checkpoint."""

    def __init__(self, path: Path, step: int) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = []
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("}\n") and json.loads(line)["step"] <= step]
        path.write_text("".join(kept), encoding="utf-8")
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def write(self, **values: float) -> None:
        self._file.write(json.dumps(values) + "\n")

    def flush(self) -> None:
        self._file.flush()

    def __exit__(self, *_: object) -> None:
        self._file.close()
