"""Cutting a text into sentences loses nothing and cuts where people would."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.tasks.sentences import halve, has_letters, split_sentences


@given(st.text(st.sampled_from("aBz1.!?。।؟…»”\"'-*) \t\r\n"), max_size=80) | st.text(max_size=80))
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


SENTENCES = {
    "en": [
        "Dr. Smith paid $3.50 at 5 p.m.|We left.",
        "The U.S. Army, i.e. the J. R. R. Tolkien fans, came.|Why?|Nobody knows!",
        "See https://example.com/a.b?c=d.|It is (quite) long (really.)|“Is it?”|‘Yes.’|Well . . . maybe.",
        "Wait...|What is it?|I think so, too.|So did I.|Fig. 3 and pp. 12 show it.|The answer is no.|We left.",
    ],
    "de": [
        "Das kostet ca. 3,50 Euro, d. h. z. B. zu viel.|Am 3. Oktober kam er.|Er blieb bis 1999.|Dann ging er.",
        "Vgl. S. 5 und Abs. 2.|„Komm!“|Er kam.|»Nein.«|»Doch.«|Im 19. Jahrhundert war das so.",
    ],
    "fr": [
        "M. Dupont et Mme Roux sont là.|« Bonjour. »|Il partit, p. ex. à 8 h 30.|Où est-il ?|Chez lui !",
        "Cela vaut 3,5 euros.|« Non ! » dit-il.|Av. J.-C. on comptait autrement.",
    ],
    "zh": [
        "他说：“走吧。”|然后走了。|什么？！|三点五是3.5。|（真的。）|是吗",
        "《书》很好！|“是……吗？”|你好",
    ],
    "ja": ["「行くぞ！」と言った。|終わり。|本当？|はい"],
    "hi": ["राम घर गया।|वह सो गया।|क्या वह 3.5 किलो है?|डॉ. शर्मा"],
    "ar": ["هل أنت بخير؟|نعم، أنا بخير.|شكراً!|الثمن 3.5 دينار."],
    "ur": ["وہ گھر گیا۔|کیا وہ سو گیا؟|ہاں"],
    "ru": [
        "Он жил на ул. Ленина, т. е. в центре.|Потом уехал.|«Да!»|А. С. Пушкин родился в 1799 г. в Москве.|Почему?"
    ],
}


@pytest.mark.parametrize(
    "marked", [pytest.param(one, id=code) for code, many in SENTENCES.items() for one in many]
)
def test_many_languages(marked: str) -> None:
    """A bar stands for the border, with a blank where the script has one."""
    wanted = marked.split("|")
    spaceless = any("\u3000" <= character <= "\u9fff" for character in marked)
    pieces = split_sentences(("" if spaceless else " ").join(wanted))
    assert [piece for piece in pieces if piece.strip()] == wanted


def test_a_list_s_bullets_and_numbers_stay_by_themselves() -> None:
    text = "Buy:\n- milk\n  * two eggs. Now!\n12. bread\n(3) a 3. one\n1999. No\n-5 degrees"
    pieces = [piece for piece in split_sentences(text) if piece.strip()]
    wanted = ["Buy:", "-", "milk", "*", "two eggs.", "Now!", "12.", "bread", "(3)", "a 3. one", "1999.", "No"]
    assert pieces == [*wanted, "-5 degrees"]


@pytest.mark.parametrize(
    ("sentence", "pieces"),
    [
        ("one, two, three; four, five, six", ["one, two, three;", " ", "four, five, six"]),
        ("one two, three four", ["one two,", " ", "three four"]),
        ("one two three four five", ["one two three", " ", "four five"]),
        ("a; b c d e f g h i j k", ["a; b c d e", " ", "f g h i j k"]),
        ("世界很大，我们很小", ["世界很大，", "我们很小"]),
        ("世界很大很大", ["世界很", "大很大"]),
        ("ab", ["a", "b"]),
    ],
)
def test_too_long_a_sentence_is_cut_between_clauses_near_its_middle(sentence: str, pieces: list[str]) -> None:
    assert halve(sentence) == pieces


@given(st.text(min_size=2, max_size=60) | st.text(st.sampled_from("ab ,;\n，"), min_size=2, max_size=60))
def test_halves_add_up_and_are_shorter(text: str) -> None:
    sentence = text.strip()
    if len(sentence) > 1:
        pieces = halve(sentence)
        assert "".join(pieces) == sentence
        assert all(0 < len(piece) < len(sentence) for piece in pieces)


def test_long_hostile_texts_take_linear_time() -> None:
    for unit in (
        "a. ",
        ". ",
        '."',
        "\n",
        "e.g. ",
        "A. ",
        "! a",
        " ",
        "\n \t",
        "\n1",
        ".»",
        ". »",
        "1. ",
        "।",
        "。”",
        ".)",
    ):
        start = time.perf_counter()
        split_sentences(unit * (200_000 // len(unit)))
        assert time.perf_counter() - start < 5


def test_numbers_and_symbols_have_no_letters() -> None:
    assert not has_letters("42 % — 3.5 €\n")
    assert has_letters("3 m")
    assert has_letters("世")
