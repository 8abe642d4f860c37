"""The bytes of each token, put together, are what decoding gives, for every layout of files."""

import random
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from tokenizers import decoders, models

from model.tokenization import Tokenizer
from model.tokenization.spelling import spell
from tests.tokenizers.folders import FAST, m2m100, marian
from tests.tokenizers.texts import lines

ZOO = Path(__file__).parents[2] / "model/zoo"
LLAMA_DECODER = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
)


def llama() -> Tokenizer:
    """Pieces with a blank before words, and all bytes."""
    words = [
        "<s>",
        "</s>",
        "<unk>",
        "▁",
        "▁▁",
        "▁the",
        "▁{",
        "{",
        "}",
        '"',
        "a",
        "é",
        "世",
        "▁世",
        "ing",
        "▁a▁b",
    ]
    vocabulary = {word: i for i, word in enumerate([*words, *(f"<0x{byte:02X}>" for byte in range(256))])}
    inner = tokenizers.Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    inner.decoder = LLAMA_DECODER
    inner.add_special_tokens(["<s>", "</s>", "<unk>"])
    inner.add_tokens([" <tool>", "Ġx"])
    return Tokenizer(inner, {})


def written(write: Callable[[Path], None]) -> Callable[[Path], Tokenizer]:
    def make(folder: Path) -> Tokenizer:
        write(folder)
        return Tokenizer.from_folder(folder)

    return make


MADE: dict[str, Callable[[Path], Tokenizer]] = {
    **{name: written(write) for name, (kind, write) in FAST.items() if "Bert" not in kind},
    "marian": written(marian),
    "m2m100": written(m2m100),
    "llama": lambda _: llama(),
    "writer": lambda _: Tokenizer.from_folder(ZOO / "writer"),
    "translator": lambda _: Tokenizer.from_folder(ZOO / "translator"),
}


def told(parts: list[bytes], *, drops: bool) -> str:
    whole = b"".join(parts).decode()
    return whole.removeprefix(" ") if drops else whole


@pytest.mark.parametrize("name", MADE)
def test_spelled_tokens_decode_to_their_bytes(name: str, tmp_path: Path) -> None:
    tokenizer = MADE[name](tmp_path)
    spelling = tokenizer.spelling()
    draw = random.Random(3)
    whole = [i for i, part in enumerate(spelling.tokens) if part and _is_text(part)]
    assert len(whole) > 10
    for _ in range(300):
        ids = draw.choices(whole, k=draw.randint(1, 8))
        parts = [spelling.tokens[i] for i in ids]
        assert tokenizer.decode(ids) == told(parts, drops=spelling.drops_first_blank), ids
        before = [ids[0], *draw.choices(whole, k=2)]
        assert tokenizer.decode(before + ids).removeprefix(tokenizer.decode(before)) == told(
            parts, drops=False
        )


@pytest.mark.parametrize("name", [name for name in MADE if name != "llama"])
def test_texts_are_spelled_by_their_tokens(name: str, tmp_path: Path) -> None:
    """Characters of several tokens among them."""
    tokenizer = MADE[name](tmp_path)
    spelling = tokenizer.spelling()
    num_spelled = 0
    for text in lines(300):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        parts = [spelling.tokens[i] for i in ids]
        if ids and all(parts):
            num_spelled += 1
            assert tokenizer.decode(ids) == told(parts, drops=spelling.drops_first_blank)
    assert num_spelled > 20


def _is_text(part: bytes) -> bool:
    try:
        part.decode()
    except UnicodeDecodeError:
        return False
    return True


def test_bytes_characters_and_added_tokens_are_told_apart() -> None:
    tokenizer = llama()
    spelling = tokenizer.spelling()
    spelled = {
        name: spelling.tokens[i]
        for name in ("▁the", "é", "<0xC3>", "<0x20>", " <tool>", "Ġx")
        if (i := tokenizer.token_id(name)) is not None
    }
    assert spelled == {
        "▁the": b" the",
        "é": "é".encode(),
        "<0xC3>": b"\xc3",
        "<0x20>": b" ",
        " <tool>": b" <tool>",
        "Ġx": "Ġx".encode(),
    }
    assert [spelling.tokens[i] for i in range(3)] == [b""] * 3


def test_metaspace_tokens_of_two_spellings_are_left_out() -> None:
    """At the beginning of a text every mark of a token is dropped, and the byte of a blank is not."""
    inner = tokenizers.Tokenizer(
        models.WordLevel({"▁": 0, "▁▁": 1, "▁a": 2, "▁a▁b": 3, "a▁": 4, "<0x20>": 5}, "▁")
    )
    inner.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    assert spell(inner, ()).tokens == [b" ", b"", b" a", b"", b"", b""]
    inner.decoder = decoders.Metaspace(prepend_scheme="never")
    assert spell(inner, ()).tokens == [b" ", b"  ", b" a", b" a b", b"a ", b"<0x20>"]


@pytest.mark.parametrize(
    "decoder",
    [
        None,
        decoders.WordPiece(),
        decoders.CTC(),
        decoders.Replace(tokenizers.Regex("a+"), ""),
        decoders.Strip("x", 1, 0),
    ],
)
def test_decoders_that_tell_nothing_are_refused(decoder: decoders.Decoder | None) -> None:
    inner = tokenizers.Tokenizer(models.WordLevel({"a": 0}, "a"))
    if decoder is not None:
        inner.decoder = decoder
    with pytest.raises(ValueError, match="stands for"):
        spell(inner, ())
