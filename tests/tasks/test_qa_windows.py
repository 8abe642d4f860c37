"""Windows over a context, and the spans that come out of their scores; against a slow and simple twin."""

import math
from itertools import pairwise

import numpy as np
import pytest

from app.tasks.qa_windows import Window, best_spans, context_bounds, cut_windows
from model.tokenization import Tokenizer
from tests.api.folders import byte_tokenizer

TOKENIZER = Tokenizer(byte_tokenizer(pair_template=True), {})


@pytest.mark.parametrize(
    ("length", "room", "stride"), [(1, 8, 3), (8, 8, 3), (9, 8, 3), (60, 8, 3), (61, 8, 0), (50, 9, 8)]
)
def test_windows_cover_the_context_and_share_the_stride(length: int, room: int, stride: int) -> None:
    pair = TOKENIZER.encode("qq", "c" * length)
    windows = cut_windows(pair, room, stride)
    first, last = context_bounds(pair)
    covered = {i for window in windows for i in range(window.start, window.start + window.count)}
    assert covered == set(range(length))
    for window in windows:
        piece = pair.ids[first + window.start : first + window.start + window.count]
        assert window.ids == pair.ids[:first] + piece + pair.ids[last:]
        assert len(window.type_ids) == len(window.ids)
        assert window.ids[window.first : window.first + window.count] == piece
    for one, two in pairwise(windows):
        assert one.start + one.count - two.start == stride
        assert one.count == room


def test_an_empty_context_is_one_empty_window() -> None:
    (window,) = cut_windows(TOKENIZER.encode("q", ""), 8, 3)
    assert window.count == 0
    scores = [np.zeros((len(window.ids), 2), dtype=np.float32)]
    assert best_spans(scores, [window], [], top_k=3, max_answer_tokens=5, no_answer=None) == []
    (span,) = best_spans(scores, [window], [], top_k=3, max_answer_tokens=5, no_answer=0.7)
    assert (span.start, span.end, span.score) == (0, 0, 1.0)


def slow_values(
    logits: list[np.ndarray[tuple[int, ...], np.dtype[np.float32]]], windows: list[Window], longest: int
) -> tuple[dict[tuple[int, int], float], float]:
    """Every span's value by its context tokens, and the log of the sum over all spans of all windows."""
    values: dict[tuple[int, int], float] = {}
    total = 0.0
    for scores, window in zip(logits, windows, strict=True):
        null = float(scores[0, 0]) + float(scores[0, 1])
        for i in range(window.count):
            for j in range(i, min(i + longest, window.count)):
                value = float(scores[window.first + i, 0]) + float(scores[window.first + j, 1]) - null
                total += math.exp(value)
                key = (window.start + i, window.start + j)
                values[key] = max(value, values.get(key, -math.inf))
    return values, total


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("no_answer", [None, 0.0, 1.5])
def test_best_spans_are_those_of_the_plain_search(seed: int, no_answer: float | None) -> None:
    draw = np.random.default_rng(seed)
    context = "some words in a text of a length"
    pair = TOKENIZER.encode("what", context)
    windows = cut_windows(pair, 11, 4)
    first, last = context_bounds(pair)
    logits = [draw.normal(size=(len(window.ids), 2)).astype(np.float32) for window in windows]
    spans = best_spans(
        logits,
        windows,
        pair.offsets[first:last],
        top_k=4,
        max_answer_tokens=5,
        no_answer=no_answer,
    )
    values, total = slow_values(logits, windows, 5)
    none = 0.0 if no_answer is None else math.exp(no_answer)
    total += none
    best = max(values, key=lambda key: values[key])
    answers = [span for span in spans if span.end > span.start]
    assert (answers[0].start, answers[0].end) == (
        pair.offsets[first + best[0]][0],
        pair.offsets[first + best[1]][1],
    )
    assert answers[0].score == pytest.approx(math.exp(values[best]) / total)
    assert [span.score for span in spans] == sorted((span.score for span in spans), reverse=True)
    for one in spans:
        for two in spans:
            assert one is two or one.end <= two.start or two.end <= one.start
    if none:
        nothing = none / total
        assert any(span.score == pytest.approx(nothing) for span in spans) or nothing < spans[-1].score


def test_the_question_and_special_tokens_are_never_the_answer() -> None:
    pair = TOKENIZER.encode("what", "text")
    (window,) = cut_windows(pair, 20, 4)
    scores = np.zeros((len(window.ids), 2), dtype=np.float32)
    scores[: window.first] = 50.0
    scores[-1] = 50.0
    first, last = context_bounds(pair)
    spans = best_spans(
        [scores], [window], pair.offsets[first:last], top_k=20, max_answer_tokens=9, no_answer=None
    )
    assert all(0 <= span.start < span.end <= len("text") for span in spans)


def test_huge_scores_stay_finite() -> None:
    pair = TOKENIZER.encode("q", "ab")
    (window,) = cut_windows(pair, 20, 4)
    scores = np.full((len(window.ids), 2), 3e38, dtype=np.float32)
    scores[0] = -3e38
    spans = best_spans([scores], [window], [(0, 1), (1, 2)], top_k=1, max_answer_tokens=2, no_answer=0.0)
    assert math.isfinite(spans[0].score)
