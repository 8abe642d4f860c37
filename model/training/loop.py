"""The training loop: one stage from its first step to its last, stoppable at any moment.

Owns stepping, the clock, checkpoints, the log and the progress bar. What is learned is the
objective's business, where weights come from and go to is the command's.
"""

import contextlib
import io
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Generic, Protocol, Self, TextIO, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from model.training.best import BestWeights
from model.training.checkpoint import Counters, TrainingState, load_checkpoint, save_checkpoint
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
from model.training.ranks import Ranks
from model.transformer import Transformer

Batch = dict[str, Tensor]
Model = TypeVar("Model", bound=nn.Module)
Taught = TypeVar("Taught", bound=nn.Module, contravariant=True)


class ObjectiveOf(Protocol[Taught]):
    """What a stage teaches a model of some kind."""

    lengths: list[tuple[int, ...]]
    """The token counts of each training example, one a side."""

    def collate(self, indices: list[int], seed: int) -> Batch:
        """The padded tensors of some examples; `seed` decides whatever is drawn (masks, crops)."""
        ...

    def loss(self, model: Taught, batch: Batch) -> tuple[Tensor, int]:
        """The mean loss and over how many predictions it was taken."""
        ...

    def validate(self, model: Taught) -> dict[str, float]:
        """Scores on the development data; may be empty."""
        ...


Objective = ObjectiveOf[Transformer]


class Interrupted(Exception):
    """Training was asked to stop, and has: all of it is in a checkpoint. The message says how far it came."""


class Diverged(Exception):
    """The loss is no number any more; the message is one line that says what to do."""


def device_of(model: nn.Module) -> torch.device:
    """Where its weights are."""
    return next(model.parameters()).device


@contextlib.contextmanager
def precision_context(precision: Precision, device_type: str = "cpu") -> Iterator[None]:
    """Autocast to bfloat16 where asked for, and on a CPU attention written out.

    On short rows the CPU's fused attention spends more time in its backward pass than all else together.
    """
    written_out = sdpa_kernel(SDPBackend.MATH) if device_type == "cpu" else contextlib.nullcontext()
    with written_out, torch.autocast(device_type, torch.bfloat16, enabled=precision == "bfloat16"):
        yield


def train(
    model: Model,
    objective: ObjectiveOf[Model],
    schedule: Schedule,
    run: Path,
    *,
    checkpoint_minutes: float = 5.0,
    stop_after: int | None = None,
    should_stop: Callable[[], bool] = lambda: False,
    ranks: Ranks | None = None,
) -> dict[str, float]:
    """Run a stage in the folder `run`, from its newest checkpoint where there is one.

    Ends after `max_epochs` passes, `max_steps`, `max_minutes` of work or when patience has run out, whichever comes
    first, and leaves the best or the averaged weights in the model where the schedule asks for them. `stop_after`
    leaves after so many steps as if killed, without a checkpoint of its own; `should_stop`, asked after each step,
    leaves with one and raises Interrupted. Returns the scores of the weights that it leaves.
    """
    stage = _Stage(model, objective, schedule, run, ranks or Ranks())
    return stage.run(checkpoint_minutes, stop_after, should_stop)


_BAR = "{desc}: {percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}"


class _Stage(Generic[Model]):
    """One run of `train`."""

    def __init__(
        self, model: Model, objective: ObjectiveOf[Model], schedule: Schedule, run: Path, ranks: Ranks
    ) -> None:
        self.model, self.objective, self.schedule = model, objective, schedule
        self.folder, self.ranks = run, ranks
        torch.manual_seed(schedule.seed)
        parameters = trainable(model)
        self.state = TrainingState(parameters, build_optimizer(parameters, schedule))
        if schedule.average:
            self.state.average = WeightAverage(parameters, schedule.average)
        if schedule.validate_every:
            self.state.best = BestWeights(schedule.choose_by, schedule.patience)
        is_resumed = load_checkpoint(run, self.state)
        self.saved_step = self.state.at.step if is_resumed else -1
        num_batches = len(_batches(objective, schedule, 0))
        total = max(1, schedule.max_epochs * num_batches // (schedule.accumulation * ranks.size))
        self.total_steps = min(total, schedule.max_steps or total)

    @property
    def progress(self) -> float:
        """How much is over, by steps or by the clock, whichever is further on."""
        at = self.state.at
        return max(at.step / self.total_steps, at.elapsed_s / (60.0 * self.schedule.max_minutes))

    def run(
        self, checkpoint_minutes: float, stop_after: int | None, should_stop: Callable[[], bool]
    ) -> dict[str, float]:
        """See `train`."""
        state, at = self.state, self.state.at
        path = self.folder / "log.jsonl" if self.ranks.is_first else None
        bar = tqdm(
            total=100.0,
            initial=min(100.0, 100.0 * self.progress),
            desc=self.folder.name,
            bar_format=_BAR,
            disable=not self.ranks.is_first,
        )
        saved = time.monotonic()
        with _Log(path, at.step) as log, bar:
            for wants_stop in self._steps(log, bar, should_stop):
                if stop_after is not None and at.step >= stop_after:
                    return {}
                at.is_over = self.progress >= 1.0
                if self._is_time_to_validate():
                    self._validate(log)
                if wants_stop or time.monotonic() - saved > 60.0 * checkpoint_minutes:
                    self._save(log)
                    saved = time.monotonic()
                if wants_stop:
                    raise Interrupted(f"step {at.step} of at most {self.total_steps}")
                if at.is_over:
                    break
            scores = self._finish(log)
        return state.best.scores if state.best is not None else scores

    def _steps(self, log: "_Log", bar: "tqdm[Any]", should_stop: Callable[[], bool]) -> Iterator[bool]:
        """Takes one step after the other; tells after each whether any process was asked to stop."""
        schedule, state, at, ranks = self.schedule, self.state, self.state.at, self.ranks
        started, processor = time.monotonic() - at.elapsed_s, time.process_time() - at.processor_s
        self.model.train()
        if at.is_over:
            return
        for group in _groups(self.objective, schedule, at, ranks):
            rate = learning_rate(schedule, at.step, self.progress)
            set_learning_rate(state.optimizer, rate)
            # What dropout draws depends on the step alone, so that a resumed stage draws the same.
            torch.manual_seed(((schedule.seed * 1_000_003 + at.step) * 64 + ranks.rank) % 2**63)
            loss, num_predictions, num_tokens = _accumulate(self.model, self.objective, schedule, group)
            ranks.average_gradients(state.parameters.values())
            own = (loss, num_predictions, num_tokens, time.monotonic() - started, should_stop())
            loss, predictions, tokens, seconds, wants_stop = ranks.sums(own, device_of(self.model))
            loss, seconds = loss / ranks.size, seconds / ranks.size
            if not math.isfinite(loss):
                told = "the loss is no number; a lower --learning-rate may help"
                raise Diverged(f"{self.folder}: step {at.step + 1}: {told}")
            norm = clip_gradients(state.parameters.values(), schedule.max_gradient_norm)
            state.optimizer.step()
            state.optimizer.zero_grad(set_to_none=True)
            if state.average is not None:
                state.average.update(state.parameters)
            at.step += 1
            at.num_tokens += int(tokens)
            at.elapsed_s = seconds
            at.processor_s = time.process_time() - processor
            log.write(
                step=at.step, loss=loss, rate=rate, norm=norm, tokens=at.num_tokens,
                predictions=int(predictions), seconds=round(seconds, 2), processor_seconds=round(at.processor_s, 2),
            )  # fmt: skip
            bar.set_postfix_str(f"loss {loss:.3f}, {at.num_tokens / seconds:.0f} tokens/s", refresh=False)
            bar.update(min(100.0, 100.0 * self.progress) - bar.n)
            yield wants_stop > 0

    def _is_time_to_validate(self) -> bool:
        every = self.schedule.validate_every
        return every > 0 and (self.state.at.step % every == 0 or self.state.at.is_over)

    def _validate(self, log: "_Log") -> None:
        """Scores the weights as they are, or their average, and keeps them where they are the best."""
        state = self.state
        assert state.best is not None
        if state.average is not None:
            state.average.swap(state.parameters)
        self.model.eval()
        scores = self.ranks.of_first(self.objective.validate(self.model) if self.ranks.is_first else None)
        self.model.train()
        state.best.offer(state.parameters, state.at.step, scores)
        if state.average is not None:
            state.average.swap(state.parameters)
        state.at.is_over = state.at.is_over or state.best.is_over
        log.write(step=state.at.step, **{f"dev_{name}": value for name, value in scores.items()})

    def _save(self, log: "_Log") -> None:
        if self.ranks.is_first and self.saved_step != self.state.at.step:
            log.flush()
            save_checkpoint(self.folder, self.state)
            self.saved_step = self.state.at.step

    def _finish(self, log: "_Log") -> dict[str, float]:
        """Leaves the weights to keep in the model, in eval mode."""
        state = self.state
        if state.best is not None:
            if not state.at.is_over:  # fewer batches than one step takes
                state.at.is_over = True
                self._validate(log)
            self._save(log)
            state.best.restore(state.parameters)
            self.model.eval()
            return {}
        if state.average is not None:
            state.average.swap(state.parameters)
        self.model.eval()
        scores = self.objective.validate(self.model)
        log.write(step=state.at.step, **{f"dev_{name}": value for name, value in scores.items()})
        return scores


def _batches(objective: ObjectiveOf[Any], schedule: Schedule, epoch: int) -> list[list[int]]:
    seed = schedule.seed * 1000 + epoch
    return bucketed_batches(objective.lengths, schedule.batch_tokens, schedule.batch_examples, seed)


def _groups(
    objective: ObjectiveOf[Any], schedule: Schedule, at: Counters, ranks: Ranks
) -> Iterator[list[Batch]]:
    """This process' batches of each coming step; moves `at` past those of all processes."""
    group: list[Batch] = []
    count = 0
    while at.epoch < schedule.max_epochs:
        batches = _batches(objective, schedule, at.epoch)
        while at.position < len(batches):
            seed = (schedule.seed * 1000 + at.epoch) * 1_000_003 + at.position
            if count % ranks.size == ranks.rank:
                group.append(objective.collate(batches[at.position], seed))
            at.position += 1
            count += 1
            if count == schedule.accumulation * ranks.size:
                yield group
                group, count = [], 0
        at.epoch, at.position = at.epoch + 1, 0


def _accumulate(
    model: Model, objective: ObjectiveOf[Model], schedule: Schedule, group: list[Batch]
) -> tuple[float, int, int]:
    """Gradients of a step; returns the loss, its number of predictions, and the tokens read."""
    device = device_of(model)
    total, num_predictions, num_tokens = 0.0, 0, 0
    for batch in group:
        num_tokens += sum(int(value.sum()) for name, value in batch.items() if name.endswith("mask"))
        with precision_context(schedule.precision, device.type):
            loss, count = objective.loss(model, {name: value.to(device) for name, value in batch.items()})
        torch.autograd.backward(loss / len(group))
        total += float(loss.detach()) / len(group)
        num_predictions += count
    return total, num_predictions, num_tokens


class _Log:
    """The stage's JSON-lines log; a resumed stage drops what came after its checkpoint. `path` None: nowhere."""

    def __init__(self, path: Path | None, step: int) -> None:
        if path is None:
            self._file: TextIO = io.StringIO()
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = []
        if path.exists():
            lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("}\n") and json.loads(line)["step"] <= step]
        shortened = path.with_name(f".{path.name}.writing")
        shortened.write_text("".join(kept), encoding="utf-8")
        shortened.replace(path)
        self._file = path.open("a", encoding="utf-8")

    def __enter__(self) -> Self:
        return self

    def write(self, **values: float) -> None:
        self._file.write(json.dumps(values) + "\n")

    def flush(self) -> None:
        self._file.flush()

    def __exit__(self, *_: object) -> None:
        self._file.close()
