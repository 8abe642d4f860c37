"""Zero-shot classification: labels that come with the request, each fitted to the text by whatever the model can do."""

from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from app.errors import InvalidRequest
from app.tasks.base import Engine, Task, TaskModel, Usage, softmax
from app.tasks.classify import Label, rank
from app.tasks.embed import Embed
from app.tasks.pairs import class_logits, shorten
from model.config import TransformerConfig

DEFAULT_TEMPLATE = "This example is {}."
MAX_PAIRS = 4096
"""Of texts and labels in one request, where each is a sequence of its own."""
_PLACE = "{}"
_COSINE_SCALE = 20.0
"""What sentence-transformers multiplies cosines by before the softmax of its contrastive losses."""


@dataclass(frozen=True)
class ZeroShotOptions:
    """How labels are weighed: against one another, or with `multi_label` each alone.

    `template` has `{}` in the place of the label. `top_k` bounds how many of the best are told. `truncate` cuts texts
    that are too long, never labels.
    """

    multi_label: bool = False
    template: str | None = None
    top_k: int | None = None
    truncate: bool = False


DEFAULTS = ZeroShotOptions()


class ZeroShot(Task):
    """What every way of doing it promises; `method` is the word by which answers say which way it was."""

    name: ClassVar[str] = "zero-shot"
    method: ClassVar[str]

    @abstractmethod
    async def run(
        self,
        texts: Sequence[str],
        labels: Sequence[str],
        usage: Usage,
        options: ZeroShotOptions = DEFAULTS,
    ) -> list[list[Label]]:
        """The labels of each text, best first, at most `top_k`; scores are from 0 to 1.

        Scores of one text add up to 1 over all labels, unless with `multi_label` each label stands alone.
        Raises InvalidRequest for a template without a place for the label (`param` "hypothesis_template"), and for a
        text or label too long.
        """


def check_number_of_pairs(num_texts: int, num_labels: int) -> None:
    """For where each pair is a sequence. Raises InvalidRequest for more than `MAX_PAIRS`."""
    if num_texts * num_labels > MAX_PAIRS:
        raise InvalidRequest(f"texts times labels must not be over {MAX_PAIRS} for this model", "labels")


def fill_template(template: str, labels: Sequence[str]) -> list[str]:
    """Each label in the template's place for it. Nothing but a plain `{}` is looked for: templates are no code."""
    if _PLACE not in template:
        raise InvalidRequest("must have {} in the place of the label", "hypothesis_template")
    return [template.replace(_PLACE, label) for label in labels]


class NliZeroShot(ZeroShot):
    """Natural language inference: does the text entail "This example is LABEL."? One encode per text and label."""

    method: ClassVar[str] = "nli"

    @classmethod
    def fits(cls, config: TransformerConfig) -> bool:
        """A sequence-class head, one of whose labels is entailment."""
        has_others = len(config.labels) > 1
        return config.head == "sequence-class" and has_others and _entailment(config.labels) is not None

    async def run(
        self,
        texts: Sequence[str],
        labels: Sequence[str],
        usage: Usage,
        options: ZeroShotOptions = DEFAULTS,
    ) -> list[list[Label]]:
        """A softmax over the entailments of all labels; with `multi_label`, or one label, against contradiction."""
        template, truncate = options.template, options.truncate
        hypotheses = fill_template(DEFAULT_TEMPLATE if template is None else template, labels)
        check_number_of_pairs(len(texts), len(labels))
        hypotheses = await shorten(self, hypotheses, "labels")
        texts = await shorten(self, texts, "text", truncate)
        pairs = [(text, hypothesis) for text in texts for hypothesis in hypotheses]
        fault = "labels" if truncate else "text"
        rows = await class_logits(self, pairs, usage, fault, cut=0 if truncate else None)
        logits = rows.reshape(len(texts), len(labels), -1)
        entailment = _entailment(self.model.config.labels)
        assert entailment is not None, "fits() saw it"
        if options.multi_label or len(labels) == 1:
            contradiction = 0 if entailment else len(self.model.config.labels) - 1
            scores = softmax(logits[:, :, [contradiction, entailment]])[:, :, 1]
        else:
            scores = softmax(logits[:, :, entailment])
        return [rank(labels, row.tolist(), options.top_k) for row in scores]


class EmbeddingZeroShot(ZeroShot):
    """How near each label's vector is to the text's: one encode per text and per label. A guess, and marked as one."""

    method: ClassVar[str] = "embedding"

    def __init__(self, model: TaskModel, engine: Engine, pool: Executor) -> None:
        super().__init__(model, engine, pool)
        self._embed = Embed(model, engine, pool)

    @classmethod
    def fits(cls, config: TransformerConfig) -> bool:
        """What embeds."""
        return Embed.fits(config)

    async def run(
        self,
        texts: Sequence[str],
        labels: Sequence[str],
        usage: Usage,
        options: ZeroShotOptions = DEFAULTS,
    ) -> list[list[Label]]:
        """A softmax over the scaled cosines; with `multi_label`, or one label, the cosines, those below 0 as 0.

        Labels stand alone unless a template is given: a sentence around them makes all of them alike.
        """
        template = options.template
        prompts = list(labels) if template is None else fill_template(template, labels)
        rows = await self._embed.read(texts, "text", options.truncate)
        rows += await self._embed.read(prompts, "labels")
        vectors = await self._embed.vectors(rows, usage)
        cosines = vectors[: len(texts)] @ vectors[len(texts) :].T  # [num_texts, num_labels]
        is_alone = options.multi_label or len(labels) == 1
        scores = np.clip(cosines, 0.0, 1.0) if is_alone else softmax(_COSINE_SCALE * cosines)
        return [rank(labels, row.tolist(), options.top_k) for row in scores]


def _entailment(labels: Sequence[str]) -> int | None:
    """The first label that begins so, in any case: checkpoints have ENTAILMENT, entailment and entail."""
    return next((i for i, label in enumerate(labels) if label.lower().startswith("entail")), None)
