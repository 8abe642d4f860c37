"""What a recipe of a stage of training says. Knows no tensors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Precision = Literal["float32", "bfloat16"]
ObjectiveName = Literal[
    "masked-lm", "span-corruption", "next-token", "classification", "extractive-qa", "text-to-text"
]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How a stage steps. Its learning rate follows whichever is further on: its steps (`max_epochs`
    passes over the data) or its clock (`max_minutes`), so that a stage cut by time still ends cooled down.

    `batch_tokens` bounds the padded tokens of a batch over both sides; `accumulation` batches make a step.
    `average` is the decay of the weights' moving average, 0 for none.

    With `validate_every` steps the weights are kept that score best on the development data, by the scores named in
    `choose_by`, the first that differs deciding ("-loss": the lower the better); `patience` validations without a
    better one end the stage, 0: none does. `max_steps` ends it earlier than the epochs do.
    """

    learning_rate: float
    max_epochs: int
    max_minutes: float = 60.0
    warmup_steps: int = 200
    final_fraction: float = 0.02
    batch_tokens: int = 2048
    batch_examples: int = 256
    accumulation: int = 1
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    betas: tuple[float, float] = (0.9, 0.98)
    epsilon: float = 1e-8
    embedding_rate: float = 1.0
    query_rate: float = 1.0
    up_rate: float = 1.0
    average: float = 0.0
    precision: Precision = "bfloat16"
    seed: int = 17
    max_steps: int | None = None
    validate_every: int = 0
    choose_by: tuple[str, ...] = ()
    patience: int = 0


@dataclass(frozen=True, kw_only=True)
class Lora:
    """A low-rank adapter on every linear of the stack (Hu et al. 2021, Dettmers et al. 2023).

    With `shipped_rank` it is cut to that rank where the zoo is built.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.05
    shipped_rank: int | None = None


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """One stage. `architecture` is the published config of a model made from nothing; a stage without one
    starts from the folder of `start`, another recipe's name, or from `--init-from`. One with `adapter_start` goes on
    from that recipe's adapter, of no greater rank, or from `--adapter-from`. `generation` is published beside the
    weights as `generation_config.json`, where it says anything."""

    name: str
    command: Literal["pretrain", "finetune"]
    objective: ObjectiveName
    schedule: Schedule
    datasets: tuple[str, ...] = ()
    start: str | None = None
    adapter_start: str | None = None
    architecture: Mapping[str, Any] | None = None
    lora: Lora | None = None
    dropout: float | None = None
    max_length: int = 128
    label_smoothing: float = 0.0
    options: Mapping[str, Any] = field(default_factory=dict)
    generation: Mapping[str, Any] = field(default_factory=dict)


TARGET_LANGUAGES = ("de", "fr", "zh")
