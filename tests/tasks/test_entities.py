"""Entities out of token scores, where the recorded pipelines say nothing: windows, ties, words."""

import numpy as np
import pytest

from app.tasks.entities import Aggregation, Entity, Token, entities_of, without_overlaps
from app.tasks.ner import best_rows

LABELS = ("O", "B-PER", "I-PER", "B-LOC")


def token(word: str, start: int, scores: list[float], goes_on: bool = False) -> Token:
    return Token(word, np.array(scores), start, start + len(word), start, goes_on)


def found(tokens: list[Token], aggregation: Aggregation) -> list[tuple[str, float, str]]:
    entities = entities_of(tokens, LABELS, aggregation, "".join)
    return [(one.entity, round(one.score, 3), one.word) for one in entities]


WORD = [
    token("mi", 0, [0.1, 0.5, 0.3, 0.1]),
    token("cro", 2, [0.0, 0.2, 0.1, 0.7], goes_on=True),
    token("soft", 5, [0.6, 0.3, 0.1, 0.0], goes_on=True),
]


@pytest.mark.parametrize(
    ("aggregation", "wanted"),
    [
        ("none", [("B-PER", 0.5, "mi"), ("B-LOC", 0.7, "cro"), ("O", 0.6, "soft")]),
        ("simple", [("PER", 0.5, "mi"), ("LOC", 0.7, "cro"), ("O", 0.6, "soft")]),
        ("first", [("PER", 0.5, "microsoft")]),
        ("average", [("PER", 0.333, "microsoft")]),
        ("max", [("LOC", 0.7, "microsoft")]),
    ],
)
def test_a_word_that_disagrees_with_itself(
    aggregation: Aggregation, wanted: list[tuple[str, float, str]]
) -> None:
    assert found(WORD, aggregation) == wanted


def test_a_new_beginning_ends_the_entity_before_it() -> None:
    begin, go_on = [0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 0.8, 0.2]
    tokens = [token("a", 0, begin), token("b", 1, go_on), token("c", 2, begin), token("d", 3, go_on)]
    assert found(tokens, "simple") == [("PER", 0.9, "ab"), ("PER", 0.9, "cd")]


def test_of_two_that_overlap_the_longer_stays_and_of_two_as_long_the_likelier() -> None:
    def entity(start: int, end: int, score: float) -> Entity:
        return Entity("X", score, "", start, end)

    likelier, longer, other = entity(2, 6, 0.9), entity(10, 15, 0.1), entity(15, 16, 0.2)
    given = [other, entity(0, 4, 0.5), likelier, longer, entity(12, 14, 0.9)]
    assert without_overlaps(given) == [likelier, longer, other]
    assert without_overlaps([]) == []


@pytest.mark.parametrize(("num_tokens", "room", "stride"), [(9, 4, 2), (20, 7, 3), (8, 8, 1), (12, 5, 0)])
def test_a_token_s_row_comes_from_where_it_has_most_around_it(
    num_tokens: int, room: int, stride: int
) -> None:
    starts = [0]
    while starts[-1] + room < num_tokens:
        starts.append(starts[-1] + room - stride)
    rows = [
        np.array([[window, start + i] for i in range(min(room, num_tokens - start))], np.float32)
        for window, start in enumerate(starts)
    ]
    for place, (window, number) in enumerate(best_rows(rows, starts, num_tokens)):
        margins = [
            min(place - start, start + len(row) - 1 - place) for row, start in zip(rows, starts, strict=True)
        ]
        assert number == place
        assert margins[int(window)] == max(margins)
