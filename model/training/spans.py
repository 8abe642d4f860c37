"""A question, its text in windows, and the span that answers it by a model's scores. Knows no model."""

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from model.tokenization import Tokenizer


@dataclass(frozen=True)
class Question:
    """One question about one text; `spans` are (start, end) in characters, empty in evaluation."""

    id: str
    question: str
    context: str
    answers: tuple[str, ...]
    spans: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True)
class Window:
    """A piece of a text together with the question. `offsets` are characters of each token in the whole
    text, None outside of it; `start` and `end` are the answer's tokens, 0 (the first token) for none."""

    ids: list[int]
    types: list[int]
    offsets: list[tuple[int, int] | None]
    start: int = 0
    end: int = 0


@dataclass(frozen=True)
class FoundSpan:
    """The best span's text; its score above "no answer here"; and the log of the sum over all spans of e to that score,
    by which their chances together stand against having no answer."""

    text: str
    value: float
    total: float

    def or_better(self, other: "FoundSpan") -> "FoundSpan":
        """The better of the two, out of two windows on one context; the sums of both."""
        best = other if other.value > self.value else self
        return replace(best, total=float(np.logaddexp(self.total, other.total)))


@dataclass(frozen=True)
class PairTemplate:
    """The special tokens that a tokenizer puts around a question and a text, and the text's token type."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    second_type: int = 0

    @property
    def size(self) -> int:
        """How many tokens it adds."""
        return len(self.before) + len(self.between) + len(self.after)

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> "PairTemplate":
        """As the tokenizer's own template has it."""
        pair = tokenizer.encode("a", "a")
        sides = pair.sequence_ids
        first, second = sides.index(0), sides.index(1)
        between = first + sides.count(0)
        end = second + sides.count(1)
        ids = pair.ids
        return cls(tuple(ids[:first]), tuple(ids[between:second]), tuple(ids[end:]), pair.type_ids[second])


def best_span(scores: Tensor, window: Window, context: str, max_tokens: int = 30) -> FoundSpan:
    """The likeliest span of a window by [t, 2] logits."""
    length = len(window.ids)
    start, end = scores[:length, 0], scores[:length, 1]
    inside = torch.tensor([place is not None for place in window.offsets])
    joint = start[:, None] + end[None] - start[0] - end[0]  # [start, end]
    allowed = torch.ones(length, length, dtype=torch.bool).triu().tril(max_tokens - 1)
    joint = joint.masked_fill(~(allowed & inside[:, None] & inside[None]), float("-inf"))
    first, last = (window.offsets[place] for place in divmod(int(joint.argmax()), length))
    if first is None or last is None:
        return FoundSpan("", float("-inf"), float("-inf"))
    total = float(joint.flatten().logsumexp(0))
    return FoundSpan(context[first[0] : last[1]], float(joint.max()), total)
