"""Tokens with label scores to entities, by the rules of the token-classification pipeline of `transformers`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Aggregation = Literal["none", "simple", "first", "average", "max"]
Join = Callable[[Sequence[str]], str]
"""What a decoder makes of tokens."""


@dataclass(frozen=True)
class Token:
    """One token of a text: its spelling, its label probabilities [num_labels], its characters, its place in the ids."""

    word: str
    scores: npt.NDArray[np.float64]
    start: int
    end: int
    index: int
    goes_on: bool
    """It belongs to the word before it."""


@dataclass(frozen=True)
class Entity:
    """A label (aggregation "none") or a group without its B- or I-, and where it stands.

    `word` is what its tokens decode to, `start` and `end` are characters. `index` is the place of its first token
    before tokens are grouped, and None after.
    """

    entity: str
    score: float
    word: str
    start: int
    end: int
    index: int | None = None


def entities_of(
    tokens: Sequence[Token], labels: Sequence[str], aggregation: Aggregation, join: Join
) -> list[Entity]:
    """All, of every label, in the text's order.

    "none" tells each token, "simple" puts neighbours of one label together. The others first give the tokens of a
    word one label: that of its "first" token, of the token with the highest score ("max"), or of the mean
    scores ("average").
    """
    if aggregation in ("none", "simple"):
        pieces = [_labelled([token], token.scores, token.word, labels) for token in tokens]
    else:
        pieces = [
            _labelled(word, _word_scores(word, aggregation), join([token.word for token in word]), labels)
            for word in _words(tokens)
        ]
    return pieces if aggregation == "none" else _grouped(pieces, join)


def without_overlaps(entities: Sequence[Entity]) -> list[Entity]:
    """In the text's order; of two that share characters the longer one, of two as long the likelier."""
    kept: list[Entity] = []
    for entity in sorted(entities, key=lambda entity: entity.start):
        if not kept or not kept[-1].start <= entity.start < kept[-1].end:
            kept.append(entity)
        elif (entity.end - entity.start, entity.score) > (kept[-1].end - kept[-1].start, kept[-1].score):
            kept[-1] = entity
    return kept


def _words(tokens: Sequence[Token]) -> list[list[Token]]:
    words: list[list[Token]] = []
    for token in tokens:
        if words and token.goes_on:
            words[-1].append(token)
        else:
            words.append([token])
    return words


def _word_scores(word: Sequence[Token], aggregation: Aggregation) -> npt.NDArray[np.float64]:
    if aggregation == "first":
        return word[0].scores
    if aggregation == "max":
        return max((token.scores for token in word), key=np.max)
    mean: npt.NDArray[np.float64] = np.mean([token.scores for token in word], axis=0)
    return mean


def _labelled(
    tokens: Sequence[Token], scores: npt.NDArray[np.float64], word: str, labels: Sequence[str]
) -> Entity:
    best = int(scores.argmax())
    return Entity(labels[best], float(scores[best]), word, tokens[0].start, tokens[-1].end, tokens[0].index)


def _grouped(pieces: Sequence[Entity], join: Join) -> list[Entity]:
    """Neighbours with one tag are one entity, unless the later one begins anew (B-)."""
    groups: list[list[Entity]] = []
    for piece in pieces:
        begins, tag = _tag(piece.entity)
        if groups and not begins and tag == _tag(groups[-1][-1].entity)[1]:
            groups[-1].append(piece)
        else:
            groups.append([piece])
    return [
        Entity(
            group[0].entity.split("-", 1)[-1],
            float(np.mean([piece.score for piece in group])),
            join([piece.word for piece in group]),
            group[0].start,
            group[-1].end,
        )
        for group in groups
    ]


def _tag(label: str) -> tuple[bool, str]:
    """Whether it begins an entity, and which; a label without a prefix goes on."""
    if label.startswith(("B-", "I-")):
        return label.startswith("B-"), label[2:]
    return False, label
