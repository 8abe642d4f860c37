"""Extractive answers out of a long context: cut it into windows, score spans, merge. Numbers in, numbers out.

Knows no engine and no model. The evaluation in `model.training` follows the same rules: windows of the same size and
stride, and a span counts by how far it is above its window's score for having no answer.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.tokenization import Encoding

Logits = npt.NDArray[np.float32]
Offsets = Sequence[tuple[int, int]]


@dataclass(frozen=True)
class Window:
    """One question with one piece of its context, as the model reads them.

    `start` is the number of the piece's first token among all context tokens, `first` that token's place in `ids`,
    `count` how many context tokens the window holds.
    """

    ids: list[int]
    type_ids: list[int]
    start: int
    first: int
    count: int


@dataclass(frozen=True)
class Span:
    """Characters of the context, and the span's share of the probability; `start == end` says: no answer in here."""

    start: int
    end: int
    score: float


def context_bounds(pair: Encoding, number: int = 1) -> tuple[int, int]:
    """The places of the first context token and behind the last one, in an encoded (question, context).

    `number` 0 is for a text that stands alone.
    """
    first = next((i for i, sequence in enumerate(pair.sequence_ids) if sequence == number), None)
    if first is None:
        return len(pair.ids), len(pair.ids)
    count = sum(sequence == number for sequence in pair.sequence_ids)
    return first, first + count


def word_offsets(pair: Encoding) -> list[tuple[int, int]]:
    """For each token the characters of the word it is of."""
    spans: dict[tuple[int | None, int], tuple[int, int]] = {}
    for (start, end), text, word in zip(pair.offsets, pair.sequence_ids, pair.word_ids, strict=True):
        if word is not None:
            spans[text, word] = (spans.get((text, word), (start, end))[0], end)
    return [
        span if word is None else spans[text, word]
        for span, text, word in zip(pair.offsets, pair.sequence_ids, pair.word_ids, strict=True)
    ]


def cut_windows(pair: Encoding, room: int, doc_stride: int, number: int = 1) -> list[Window]:
    """Windows of at most `room` context tokens, `doc_stride` of which the next window repeats.

    Question and special tokens are in each. `room` must be above `doc_stride`; `number` as in `context_bounds`.
    """
    first, last = context_bounds(pair, number)
    head, tail = slice(0, first), slice(last, None)
    windows = []
    for start in _window_starts(last - first, room, doc_stride):
        piece = slice(first + start, min(first + start + room, last))
        ids = pair.ids[head] + pair.ids[piece] + pair.ids[tail]
        type_ids = pair.type_ids[head] + pair.type_ids[piece] + pair.type_ids[tail]
        windows.append(Window(ids, type_ids, start, first, piece.stop - piece.start))
    return windows


def _window_starts(num_context: int, room: int, doc_stride: int) -> Iterator[int]:
    start = 0
    yield start
    while start + room < num_context:
        start += room - doc_stride
        yield start


def best_spans(
    logits: Sequence[Logits],
    windows: Sequence[Window],
    offsets: Offsets,
    *,
    top_k: int,
    max_answer_tokens: int,
    no_answer: float | None,
) -> list[Span]:
    """The `top_k` best spans that do not overlap, best first, over all windows of one context.

    `logits[w]` is [num_tokens, 2]: start and end scores of window `w`; `offsets` are the characters of each context
    token. A span's value is its start and end score less those of the window's first token, which stand for "no
    answer here". Its score is the softmax of that over all spans of at most `max_answer_tokens` tokens and, with
    a value `no_answer`, over having no answer, which then is a candidate as well.
    """
    values: dict[tuple[int, int], float] = {}
    sums = []
    for scores, window in zip(logits, windows, strict=True):
        grid = _span_grid(scores.astype(np.float64), window, max_answer_tokens)
        if grid.size:
            sums.append(np.logaddexp.reduce(grid, axis=None))
        for start, length in _best_cells(grid, 4 * top_k):
            span = (window.start + start, window.start + start + length)
            values[span] = max(values.get(span, -np.inf), float(grid[start, length]))
    if no_answer is not None:
        sums.append(np.float64(no_answer))
    total = float(np.logaddexp.reduce(np.array(sums))) if sums else 0.0
    spans = [
        Span(offsets[start][0], offsets[end][1], float(np.exp(value - total)))
        for (start, end), value in values.items()
    ]
    if no_answer is not None:
        spans.append(Span(0, 0, float(np.exp(no_answer - total))))
    return _apart(spans, top_k)


def _span_grid(scores: npt.NDArray[np.float64], window: Window, max_tokens: int) -> npt.NDArray[np.float64]:
    """[count, lengths]: the value of the span that starts at a token and holds so many more; -inf past the window."""
    begin = scores[window.first : window.first + window.count, 0]
    finish = scores[window.first : window.first + window.count, 1]
    lengths = min(max_tokens, window.count)
    padded = np.concatenate([finish, np.full(max(lengths - 1, 0), -np.inf)])
    ends = np.lib.stride_tricks.sliding_window_view(padded, lengths) if lengths else np.empty((0, 0))
    grid: npt.NDArray[np.float64] = begin[:, None] + ends - (scores[0, 0] + scores[0, 1])
    return grid


def _best_cells(grid: npt.NDArray[np.float64], count: int) -> list[tuple[int, int]]:
    """Row and column of the `count` largest finite cells."""
    flat = grid.ravel()
    count = min(count, flat.size)
    if not count:
        return []
    chosen = np.argpartition(flat, flat.size - count)[flat.size - count :]
    return [divmod(int(cell), grid.shape[1]) for cell in chosen if np.isfinite(flat[cell])]


def _apart(spans: Sequence[Span], top_k: int) -> list[Span]:
    """Best first; a span that shares characters with a better one is the same answer told again."""
    chosen: list[Span] = []
    for span in sorted(spans, key=lambda span: (-span.score, span.start, span.end)):
        if all(span.end <= other.start or span.start >= other.end for other in chosen):
            chosen.append(span)
        if len(chosen) == top_k:
            break
    return chosen
