"""Cutting a text into sentences loses nothing and cuts where people would."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.tasks.sentences import has_letters, split_sentences


@given(st.text(st.sampled_from("aB1.!?。…\"') \t\r\n"), max_size=80) | st.text(max_size=80))
def test_pieces_add_up_to_the_text(text: str) -> None:
    pieces = split_sentences(text)
    assert "".join(pieces) == text
    assert all(piece for piece in pieces)
    assert all(piece == piece.strip() or not piece.strip() for piece in pieces)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("One. Two!  Three? Four", ["One.", " ", "Two!", "  ", "Three?", " ", "Four"]),
        ("A line\nand another\n\n", ["A line", "\n", "and another", "\n", "\n"]),
        ('He said "Go." Then he left.', ['He said "Go."', " ", "Then he left."]),
        ("Dr. Smith met Mr. J. Doe. They talked.", ["Dr. Smith met Mr. J. Doe.", " ", "They talked."]),
        ("See fig. 3 and no. 7. Then go.", ["See fig. 3 and no. 7.", " ", "Then go."]),
        ("The answer is no. We left.", ["The answer is no.", " ", "We left."]),
        ("It costs 3.50 today. Fine.", ["It costs 3.50 today.", " ", "Fine."]),
        ("Wait... what? yes", ["Wait... what? yes"]),
        ("So did I. You too.", ["So did I.", " ", "You too."]),
        ("世界很大。我们很小！是吗？", ["世界很大。", "我们很小！", "是吗？"]),
        ("  indented. Yes. ", ["  ", "indented.", " ", "Yes.", " "]),
        ("", []),
        ("   ", ["   "]),
    ],
)
def test_cuts_where_a_sentence_ends(text: str, pieces: list[str]) -> None:
    assert split_sentences(text) == pieces


def test_long_hostile_texts_take_linear_time() -> None:
    for unit in ("a. ", ". ", '."', "\n", "e.g. ", "A. ", "! a", " "):
        start = time.perf_counter()
        split_sentences(unit * (200_000 // len(unit)))
        assert time.perf_counter() - start < 5


def test_numbers_and_symbols_have_no_letters() -> None:
    assert not has_letters("42 % — 3.5 €\n")
    assert has_letters("3 m")
    assert has_letters("世")
