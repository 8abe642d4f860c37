"""What a run does, down to the last number: what was asked for, and sensible defaults for the rest. Knows no tensors.

The plan is written down before the first step; a resumed run follows the plan and nothing else.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from model.config import CheckpointError, Kind, TransformerConfig
from model.training.config import Precision, Schedule
from model.training.own_data.columns import Task

WORK = "training"
"""The folder in a run's folder that holds all but the model: plan, log, checkpoints, result."""
PLAN = "plan.json"

KINDS: Mapping[Task, Kind] = {
    "classification": "encoder",
    "qa": "encoder",
    "translation": "encoder-decoder",
    "seq2seq": "encoder-decoder",
    "lm": "decoder",
}
_CHOOSE_BY: Mapping[Task, tuple[str, ...]] = {
    "classification": ("macro_f1", "-loss"),
    "qa": ("f1", "exact_match"),
    "translation": ("-loss",),
    "seq2seq": ("-loss",),
    "lm": ("-loss",),
}
LONGEST: Mapping[Task, int] = {
    "classification": 256,
    "qa": 384,
    "translation": 128,
    "seq2seq": 512,
    "lm": 256,
}
"""Tokens of a side; attention's time grows with their square."""
_BATCH: Mapping[Task, int] = {"classification": 16, "qa": 16, "translation": 32, "seq2seq": 16, "lm": 8}
_MOST_EPOCHS: Mapping[Task, int] = {
    "classification": 30,
    "qa": 10,
    "translation": 20,
    "seq2seq": 20,
    "lm": 10,
}
_STEPS = 600
"""What the epochs of a small file are to amount to."""
_FEWEST_EPOCHS = 3
_VALIDATE_STEPS = 500
_PATIENCE = 5
_WARMUP = 0.1


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All of a run. Shares are of the rows, lengths in tokens; None where nothing limits or says."""

    task: Task
    data: str
    base: str
    columns: Mapping[str, str] = field(default_factory=dict)
    encoding: str | None = None
    eval_data: str | None = None
    digests: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 of the data files, by their paths."""
    dev_share: float = 0.1
    test_share: float = 0.1
    source_language: str | None = None
    target_language: str | None = None
    prefix: str | None = None

    lora: bool = False
    rank: int = 16
    max_length: int = 0
    batch: int = 0
    accumulation: int = 1
    epochs: int = 0
    max_steps: int | None = None
    max_minutes: float | None = None
    learning_rate: float = 0.0
    warmup_steps: int = 0
    validate_every: int = 0
    patience: int = _PATIENCE
    label_smoothing: float = 0.0
    precision: Precision = "float32"
    seed: int = 17
    device: str = "cpu"
    devices: int = 1
    threads: int = 1

    @property
    def schedule(self) -> Schedule:
        """As the training loop takes it."""
        has_dev = self.dev_share > 0
        sides = 2 if self.task in ("translation", "seq2seq") else 1
        return Schedule(
            learning_rate=self.learning_rate,
            max_epochs=self.epochs,
            max_steps=self.max_steps,
            max_minutes=math.inf if self.max_minutes is None else self.max_minutes,
            warmup_steps=self.warmup_steps,
            batch_tokens=self.batch * (self.max_length + 1) * sides,
            batch_examples=self.batch,
            accumulation=self.accumulation,
            betas=(0.9, 0.999),
            precision=self.precision,
            seed=self.seed,
            validate_every=self.validate_every if has_dev else 0,
            choose_by=_CHOOSE_BY[self.task],
            patience=self.patience,
        )

    def save(self, out: Path) -> None:
        """Writes it to the run's folder."""
        file = out / WORK / PLAN
        file.parent.mkdir(parents=True, exist_ok=True)
        temporary = file.with_name(f".{PLAN}.writing")
        temporary.write_text(json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        temporary.replace(file)

    @classmethod
    def read(cls, out: Path) -> "Plan":
        """Of the run in a folder. Raises CheckpointError where there is none, or another version's."""
        file = out / WORK / PLAN
        try:
            return cls(**json.loads(file.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise CheckpointError(f"{out}: no run to resume: {file} is missing") from None
        except (ValueError, TypeError) as fault:
            raise CheckpointError(f"{file}: {fault}") from None


def longest(config: TransformerConfig, tokenizer_limit: int | None) -> int:
    """The longest text that a base can take."""
    return min(config.max_positions, tokenizer_limit or config.max_positions)


def choose_length(
    task: Task, config: TransformerConfig, tokenizer_limit: int | None, most_tokens: int
) -> int:
    """Room for all texts of the data, `most_tokens` at most, where that is not too slow or too much for the base."""
    limit = min(LONGEST[task], longest(config, tokenizer_limit))
    if task in ("qa", "lm"):  # windows and blocks: a text may have several
        return limit
    return min(limit, 8 * math.ceil(most_tokens / 8))


def with_defaults(plan: Plan, config: TransformerConfig, num_train: int, wished: Mapping[str, Any]) -> Plan:
    """The plan with every number filled in that was not wished for; `num_train` counts examples, or blocks of text."""
    batch = wished.get("batch") or _BATCH[plan.task]
    accumulation = wished.get("accumulation") or 1
    steps = max(1, math.ceil(num_train / (batch * accumulation * plan.devices)))
    epochs = min(_MOST_EPOCHS[plan.task], max(_FEWEST_EPOCHS, round(_STEPS / steps)))
    epochs = wished.get("epochs") or epochs
    total = min(steps * epochs, wished.get("max_steps") or steps * epochs)
    found: dict[str, Any] = {
        "batch": batch,
        "accumulation": accumulation,
        "epochs": epochs,
        "learning_rate": _learning_rate(plan, config),
        "warmup_steps": max(1, round(_WARMUP * total)),
        "validate_every": min(steps, _VALIDATE_STEPS),
    }
    return replace(plan, **(found | {key: value for key, value in wished.items() if value is not None}))


def _learning_rate(plan: Plan, config: TransformerConfig) -> float:
    """Wider models take smaller steps; an adapter, which begins at nothing, larger ones; T5 was made for large ones."""
    width = config.hidden_size
    if plan.lora:
        rate = 1e-3 * math.sqrt(384 / width)
    elif config.family in ("t5", "mt5"):
        rate = 3e-4
    else:
        rate = 1e-4 * math.sqrt(384 / width)
    return float(f"{min(rate, 1e-3):.2g}")
