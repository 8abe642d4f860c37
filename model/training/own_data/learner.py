"""What the tasks have in common for a run: each learner says what is read, learnt and scored."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from model.config import TransformerConfig
from model.generation_config import GenerationConfig
from model.tokenization import Encoding, Tokenizer
from model.training.intervals import Score
from model.training.loop import Objective
from model.training.own_data.examples import Example
from model.training.own_data.plan import Plan
from model.transformer import OWN, Transformer

ADAPTER = "trained"
"""The name under which a LoRA adapter, and its head, stand on the base while they are trained."""


@dataclass(frozen=True)
class Setting:
    """What a learner stands on: the plan, and the base's tokenizer, shape and way to generate."""

    plan: Plan
    tokenizer: Tokenizer
    base: TransformerConfig
    generation: GenerationConfig

    @property
    def head(self) -> str:
        """The name of the head that is trained."""
        return ADAPTER if self.plan.lora else OWN

    @property
    def adapter(self) -> str | None:
        """The name of the adapter that is trained."""
        return ADAPTER if self.plan.lora else None


@dataclass(frozen=True)
class Results:
    """What the card tells of the test rows. `tables` are (title, header, rows)."""

    scores: list[Score]
    facts: dict[str, float | str] = field(default_factory=dict)
    tables: list[tuple[str, list[str], list[list[str]]]] = field(default_factory=list)


class Learner(Protocol):
    """One task on one data set."""

    config: TransformerConfig
    """Of the trained model: the base's with the task's head."""

    def token_counts(self, examples: Sequence[Example]) -> list[int]:
        """Of each example, the tokens of its longest side as the model reads it."""
        ...

    def objective(self, train: Sequence[Example], dev: Sequence[Example]) -> Objective:
        """What the training loop steps through."""
        ...

    def finish(self, model: Transformer, dev: Sequence[Example]) -> dict[str, float | str]:
        """What is still to do with the trained weights; facts for the card."""
        ...

    def score(self, model: Transformer, test: Sequence[Example]) -> Results:
        """The scores on rows that had no part in training."""
        ...


def cut(encoding: Encoding, limit: int) -> list[int]:
    """At most `limit` ids; the special tokens at the end stay, as the service cuts too."""
    ids = list(encoding.ids)
    if len(ids) <= limit:
        return ids
    tail = len(ids)
    while tail and encoding.special_mask[tail - 1]:
        tail -= 1
    kept = ids[tail:][:limit]
    return ids[: limit - len(kept)] + kept
