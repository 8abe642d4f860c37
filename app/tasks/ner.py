"""Named entities: the labels of a token-class head, token by token or put together to whole names."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from app.engine.protocol import EncodeRequest
from app.errors import InvalidRequest
from app.tasks.base import Task, Usage, softmax, to_array
from app.tasks.entities import Aggregation, Entity, Token, entities_of, without_overlaps
from app.tasks.qa_windows import Window, context_bounds, cut_windows
from model.config import TransformerConfig
from model.tokenization import Encoding

DEFAULT_STRIDE = 128
_GROUPING_COST = 10
"""Putting a token into its entity takes about as long as tokenizing so many characters; see `Task.offload`."""


@dataclass(frozen=True)
class NerOptions:
    """`stride`: tokens that neighbouring windows of a long text share, each window's entities then found by itself."""

    aggregation: Aggregation = "simple"
    ignore_labels: tuple[str, ...] = ("O",)
    stride: int | None = None


class Ner(Task):
    """One encode per window of a text; windows are as long as the model takes, so most texts are one."""

    name: ClassVar[str] = "ner"

    @classmethod
    def fits(cls, config: TransformerConfig) -> bool:
        """A token-class head."""
        return config.kind == "encoder" and config.head == "token-class"

    async def run(self, texts: Sequence[str], options: NerOptions, usage: Usage) -> list[list[Entity]]:
        """The entities of each text in their order, as the token-classification pipeline of transformers finds them.

        A text longer than the model takes is read in overlapping windows. Without `stride` each token has its scores
        from the window that shows most around it, and entities are put together over the whole text; with it, as
        in the pipeline, in each window, and of two that overlap the longer or likelier one stays. Raises
        InvalidRequest for a stride that a window has no room for, or that comes with aggregation "none".
        """
        if options.stride is not None and options.aggregation == "none":
            raise InvalidRequest("needs an aggregation other than none", "stride")
        encodings = await self.tokenize(texts)
        windows = [self._cut(encoding, options.stride) for encoding in encodings]
        requests = [
            EncodeRequest(
                model=self.model.address, ids=window.ids, type_ids=window.type_ids, output="token-class"
            )
            for group in windows
            for window in group
        ]
        answers = iter(await self.encode(requests, usage))
        found = []
        for text, encoding, group in zip(texts, encodings, windows, strict=True):
            logits = [to_array(next(answers)) for _ in group]
            size = _GROUPING_COST * sum(window.count for window in group)
            reading = _Reading(self, text, encoding, options)
            found.append(await self.offload(size, partial(reading.entities, group, logits)))
        return found

    def _cut(self, encoding: Encoding, stride: int | None) -> list[Window]:
        first, last = context_bounds(encoding, 0)
        around = len(encoding.ids) - (last - first)
        self.check_length(around + 1, "text")
        room = self.model.max_length - around
        if stride is not None and stride >= room:
            raise InvalidRequest(f"must be below {room} for {self.model.name!r}", "stride")
        return cut_windows(encoding, room, min(DEFAULT_STRIDE, room // 2) if stride is None else stride, 0)


class _Reading:
    """One text with its tokens, whose entities are to be found."""

    def __init__(self, task: Ner, text: str, encoding: Encoding, options: NerOptions) -> None:
        self._tokenizer = task.model.tokenizer
        self._marks_words = bool(self._tokenizer.continuation)
        self._unknown = self._tokenizer.unk_token_id
        self._labels = task.model.config.labels
        self._text = text
        self._encoding = encoding
        self._options = options
        self._first, self._last = context_bounds(encoding, 0)

    def entities(self, windows: Sequence[Window], logits: Sequence[npt.NDArray[np.float32]]) -> list[Entity]:
        """`logits[w]` is [num_tokens, num_labels] of window `w`."""
        rows = [x[w.first : w.first + w.count] for x, w in zip(logits, windows, strict=True)]
        if self._options.stride is None or len(windows) == 1:
            whole = best_rows(rows, [window.start for window in windows], self._last - self._first)
            return self._found(whole, 0)
        found = [self._found(row, window.start) for row, window in zip(rows, windows, strict=True)]
        return without_overlaps([entity for one in found for entity in one])

    def _found(self, rows: npt.NDArray[np.float32], start: int) -> list[Entity]:
        """Of some neighbouring tokens, the first of which is the text's token number `start`."""
        place = self._first + start
        tokens = [self._token(place + i, scores) for i, scores in enumerate(softmax(rows))]
        entities = entities_of(tokens, self._labels, self._options.aggregation, self._tokenizer.join_tokens)
        return [entity for entity in entities if entity.entity not in self._options.ignore_labels]

    def _token(self, place: int, scores: npt.NDArray[np.float64]) -> Token:
        start, end = self._encoding.offsets[place]
        token_id = self._encoding.ids[place]
        spelling = self._tokenizer.id_to_token(token_id) or ""
        piece = self._text[start:end]
        if token_id == self._unknown:
            return Token(piece, scores, start, end, place, goes_on=False)
        if self._marks_words:
            goes_on = len(spelling) != len(piece)
        else:  # nothing marks what goes on with a word, so a blank must tell words apart
            goes_on = start > 0 and " " not in self._text[start - 1 : start + 1]
        return Token(spelling, scores, start, end, place, goes_on)


def best_rows(
    rows: Sequence[npt.NDArray[np.float32]], starts: Sequence[int], num_tokens: int
) -> npt.NDArray[np.float32]:
    """[num_tokens, num_labels]: each token's row from the window in which it stands farthest from both ends.

    `rows[w]` are those of window `w`, whose first token is number `starts[w]`; together they cover all tokens.
    """
    best = np.empty((num_tokens, rows[0].shape[1]), np.float32)
    margins = np.full(num_tokens, -1)
    for row, start in zip(rows, starts, strict=True):
        places = np.arange(len(row))
        margin = np.minimum(places, places[::-1])
        is_better = margin > margins[start : start + len(row)]
        best[start : start + len(row)][is_better] = row[is_better]
        margins[start : start + len(row)][is_better] = margin[is_better]
    return best
