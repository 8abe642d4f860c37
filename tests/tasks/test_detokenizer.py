"""Text comes out whole: characters over several tokens, stop strings over several tokens, nothing twice or lost."""

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, pre_tokenizers

from app.tasks.detokenizer import Detokenizer
from model.tokenization import Tokenizer
from tests.api.folders import byte_tokenizer

BYTES = Tokenizer(byte_tokenizer(pair_template=False), {})


def word_tokenizer() -> Tokenizer:
    """Sentencepiece's way: a blank belongs to the next word, and the first one of a text is dropped."""
    words = ["▁the", "▁cat", "▁sat", "s", "▁", "<unk>"]
    inner = Inner(models.Unigram([(word, -1.0) for word in words], unk_id=5, byte_fallback=False))
    inner.pre_tokenizer = pre_tokenizers.Metaspace()
    inner.decoder = decoders.Metaspace()
    return Tokenizer(inner, {})


def read(reader: Detokenizer, ids: list[int], size: int = 1) -> list[str]:
    pieces = [reader.add(ids[i : i + size]) for i in range(0, len(ids), size)]
    return [*pieces, reader.finish()]


@settings(deadline=None)
@given(st.text(max_size=60), st.integers(1, 7))
def test_pieces_are_whole_characters_and_add_up(text: str, size: int) -> None:
    ids = BYTES.encode(text, add_special_tokens=False).ids
    pieces = read(Detokenizer(BYTES), ids, size)
    assert "".join(pieces) == text
    if "\ufffd" not in text:
        assert all("\ufffd" not in piece for piece in pieces)


def test_a_character_is_released_with_its_last_token() -> None:
    ids = BYTES.encode("é世", add_special_tokens=False).ids
    assert read(Detokenizer(BYTES), ids) == ["", "é", "", "", "世", ""]


@pytest.mark.parametrize("seed", range(5))
def test_broken_bytes_read_the_same_in_pieces_and_whole(seed: int) -> None:
    draw = random.Random(seed)
    ids = [draw.randrange(5, 261) for _ in range(300)]
    whole = "".join(read(Detokenizer(BYTES), ids, len(ids)))
    assert "".join(read(Detokenizer(BYTES), ids)) == whole == BYTES.decode(ids)


def test_a_long_run_of_broken_bytes_is_not_held_for_ever() -> None:
    reader = Detokenizer(BYTES)
    lone = BYTES.encode("é", add_special_tokens=False).ids[:1]
    released = [reader.add(lone) for _ in range(100)]
    assert sum(map(len, released)) > 70


def test_work_per_token_does_not_grow() -> None:
    class Counting(Tokenizer):
        longest = 0

        def decode(self, ids: object, skip_special_tokens: bool = True) -> str:
            assert isinstance(ids, list)
            self.longest = max(self.longest, len(ids))
            return super().decode(ids, skip_special_tokens)

    tokenizer = Counting(byte_tokenizer(pair_template=False), {})
    read(Detokenizer(tokenizer), tokenizer.encode("some words 世界 " * 200, add_special_tokens=False).ids)
    assert tokenizer.longest < 40


def test_blanks_between_words_are_kept_and_continue_the_prompt() -> None:
    tokenizer = word_tokenizer()
    ids = [tokenizer.token_id(word) or 0 for word in ("▁the", "▁cat", "s", "▁sat")]
    assert "".join(read(Detokenizer(tokenizer), ids)) == "the cats sat"
    after_prompt = Detokenizer(tokenizer, before=[tokenizer.token_id("▁the") or 0])
    assert read(after_prompt, ids[1:]) == [" cat", "s", " sat", ""]


def test_a_stop_string_over_several_tokens_never_shows() -> None:
    ids = BYTES.encode("one STOP two", add_special_tokens=False).ids
    reader = Detokenizer(BYTES, ["STOP"])
    assert "".join(read(reader, ids)) == "one "
    assert reader.is_stopped
    assert reader.num_tokens == len("one STOP")


def test_what_only_began_like_a_stop_string_is_released() -> None:
    ids = BYTES.encode("a STO b ST", add_special_tokens=False).ids
    reader = Detokenizer(BYTES, ["STOP"])
    pieces = read(reader, ids)
    assert "".join(pieces) == "a STO b ST"
    assert pieces[2:5] == ["", "", ""]
    assert not reader.is_stopped


def test_the_earliest_of_several_stop_strings_ends_the_text() -> None:
    reader = Detokenizer(BYTES, ["world", "lo", "世界"])
    assert "".join(read(reader, BYTES.encode("hello world", add_special_tokens=False).ids, 11)) == "hel"
    other = Detokenizer(BYTES, ["界"])
    assert "".join(read(other, BYTES.encode("a 世界", add_special_tokens=False).ids)) == "a 世"


@settings(deadline=None)
@given(st.text("ab", max_size=30), st.lists(st.text("ab", min_size=1, max_size=4), min_size=1, max_size=3))
def test_stopping_cuts_where_the_first_stop_string_is_complete(text: str, stops: list[str]) -> None:
    pieces = read(Detokenizer(BYTES, stops), BYTES.encode(text, add_special_tokens=False).ids)
    ends = [end for end in range(len(text) + 1) if any(stop in text[:end] for stop in stops)]
    if not ends:
        assert "".join(pieces) == text
    else:
        seen = text[: ends[0]]
        assert "".join(pieces) == seen[: min(seen.index(stop) for stop in stops if stop in seen)]


def test_stop_strings_wait_for_min_tokens() -> None:
    ids = BYTES.encode("abab", add_special_tokens=False).ids
    assert "".join(read(Detokenizer(BYTES, ["b"], min_tokens=2), ids)) == "aba"


def test_special_tokens_say_nothing() -> None:
    ids = [BYTES.token_id("</s>") or 0, *BYTES.encode("a", add_special_tokens=False).ids]
    assert "".join(read(Detokenizer(BYTES), ids)) == "a"


def test_a_prompt_that_ends_within_a_character_is_no_trouble(tmp_path: Path) -> None:
    first, second = BYTES.encode("é", add_special_tokens=False).ids
    assert "".join(read(Detokenizer(BYTES, before=[first]), [second, *BYTES.encode("ab").ids])).endswith("ab")
