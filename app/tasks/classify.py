"""Text classification: the labels of a sequence-class head with their probabilities."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from app.engine.protocol import EncodeRequest
from app.tasks.base import Task, Usage, cut_ids, sigmoid, softmax, to_array
from model.config import TransformerConfig

Function = Literal["sigmoid", "softmax", "none"]
_FUNCTIONS: Mapping[Function, Callable[[npt.NDArray[np.float32]], npt.NDArray[Any]]] = {
    "sigmoid": sigmoid,
    "softmax": softmax,
    "none": lambda logits: logits,
}


@dataclass(frozen=True)
class Label:
    """One label; scores are probabilities, of all labels together or each alone for multi-label models, or logits."""

    label: str
    score: float


class Classify(Task):
    """One encode per text; softmax, or a sigmoid where the checkpoint says multi-label or has one label."""

    name: ClassVar[str] = "classify"

    @classmethod
    def fits(cls, config: TransformerConfig) -> bool:
        """A sequence-class head."""
        return config.head == "sequence-class"

    async def run(
        self,
        texts: Sequence[str],
        usage: Usage,
        *,
        multi_label: bool | None = None,
        top_k: int | None = None,
        truncate: bool = False,
        function: Function | None = None,
    ) -> list[list[Label]]:
        """The labels of each text, best first, at most `top_k`. Raises InvalidRequest for one too long.

        `function` in the checkpoint's own one's place makes scores of logits.
        """
        encodings = await self.tokenize(texts)
        requests = []
        for encoding in encodings:
            ids = encoding.ids
            if truncate:
                ids = cut_ids(ids, self.model.special_ids, self.model.max_length)
            self.check_length(len(ids), "text")
            types = encoding.type_ids[: len(ids)]
            requests.append(EncodeRequest(model=self.model.address, ids=ids, type_ids=types, output="class"))
        answers = await self.encode(requests, usage)
        is_multi = self.model.config.multi_label if multi_label is None else multi_label
        # A cross-encoder's one logit says how well a text fits; a softmax would make 1 of any.
        is_multi = is_multi or len(self.model.config.labels) == 1
        logits = np.stack([to_array(answer).reshape(-1) for answer in answers])  # [num_texts, num_labels]
        if function is None:
            function = "sigmoid" if is_multi else "softmax"
        scores = _FUNCTIONS[function](logits)
        return [rank(self.model.config.labels, row.tolist(), top_k) for row in scores]


def rank(labels: Sequence[str], scores: Sequence[float], top_k: int | None) -> list[Label]:
    """Labels with their scores, best first, at most `top_k`; equals in the order of `labels`."""
    order = sorted(range(len(labels)), key=lambda i: -scores[i])
    return [Label(labels[i], scores[i]) for i in order[:top_k]]
