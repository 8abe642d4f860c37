"""What each token of a vocabulary adds to a text, in bytes, as the tokenizer's own decoder has it."""

import json
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import tokenizers

MAX_TOKEN_BYTES = 255

_Step = Callable[[bytes | str], bytes | str]


@dataclass(frozen=True)
class Spelling:
    """`tokens[i]` is what token i adds behind other tokens; b"" where it adds nothing, or not always the same.

    `drops_first_blank`: a text loses the blank that it begins with, so one that does not begin with a blank is
    generated with one before it.
    """

    tokens: list[bytes]
    drops_first_blank: bool


def spell(tokenizer: tokenizers.Tokenizer, unspoken: Collection[int]) -> Spelling:
    """The spelling of a vocabulary without the tokens of `unspoken`, which no text shows.

    Raises ValueError for a decoder that does not put texts together from bytes, such as WordPiece.
    """
    stored = json.loads(tokenizer.to_str())
    steps = _flat(stored["decoder"])
    try:
        chain = [_STEPS[step["type"]](step) for step in steps]
    except KeyError as unknown:
        raise ValueError(
            f"a decoder of the kind {unknown} does not tell what each token stands for"
        ) from None
    if not chain:
        raise ValueError("a tokenizer without a decoder does not tell what each token stands for")
    vocabulary = tokenizer.get_vocab(with_added_tokens=True)
    tokens = [b""] * (1 + max(vocabulary.values(), default=-1))
    mark = next((step["replacement"] for step in steps if _drops_by_token(step)), None)
    for name, token_id in vocabulary.items():
        if token_id in unspoken or not _is_spelled_one_way(name, mark):
            continue
        spelled: bytes | str = name
        for apply in chain:
            spelled = apply(spelled)
        as_bytes = spelled.encode() if isinstance(spelled, str) else spelled
        tokens[token_id] = as_bytes if len(as_bytes) <= MAX_TOKEN_BYTES else b""
    return Spelling(tokens, any(map(_drops_first_blank, steps)))


def _flat(decoder: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    """The steps of a stored decoder in order, sequences in sequences taken apart."""
    if decoder is None:
        return []
    if decoder["type"] == "Sequence":
        return [step for inner in decoder["decoders"] for step in _flat(inner)]
    return [decoder]


def _drops_by_token(step: Mapping[str, Any]) -> bool:
    return step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never"


def _drops_first_blank(step: Mapping[str, Any]) -> bool:
    return _drops_by_token(step) or (step["type"] == "Strip" and step["start"] > 0)


def _is_spelled_one_way(name: str, mark: str | None) -> bool:
    """Metaspace drops every mark (`mark`) of a text's first token, and never the byte of a blank."""
    return mark is None or (name.count(mark) <= name.startswith(mark) and name != "<0x20>")


def _byte_level(_: Mapping[str, Any]) -> _Step:
    characters = _byte_level_characters()

    def apply(token: bytes | str) -> bytes | str:
        if isinstance(token, str) and all(character in characters for character in token):
            return bytes(characters[character] for character in token)
        return token

    return apply


def _byte_fallback(_: Mapping[str, Any]) -> _Step:
    def apply(token: bytes | str) -> bytes | str:
        if isinstance(token, str) and len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            try:
                return bytes.fromhex(token[3:5])
            except ValueError:
                return token
        return token

    return apply


def _metaspace(step: Mapping[str, Any]) -> _Step:
    return _replaced(step["replacement"], " ")


def _replace(step: Mapping[str, Any]) -> _Step:
    pattern = step["pattern"].get("String")
    if pattern is None:
        raise ValueError("a decoder that replaces a pattern does not tell what each token stands for")
    return _replaced(pattern, step["content"])


def _replaced(pattern: str, content: str) -> _Step:
    return lambda token: token.replace(pattern, content) if isinstance(token, str) else token


def _strip(step: Mapping[str, Any]) -> _Step:
    """It works on the whole text: only a single blank before the first word is understood."""
    if (step["content"], step["start"], step["stop"]) not in ((" ", 1, 0), (" ", 0, 0)):
        raise ValueError("a decoder that strips a text does not tell what each token stands for")
    return lambda token: token


_STEPS: Mapping[str, Callable[[Mapping[str, Any]], _Step]] = {
    "ByteLevel": _byte_level,
    "ByteFallback": _byte_fallback,
    "Metaspace": _metaspace,
    "Replace": _replace,
    "Strip": _strip,
    "Fuse": lambda _: lambda token: token,
}


def _byte_level_characters() -> dict[str, int]:
    """GPT-2's table: printable bytes stand for themselves, the others for the characters from 256 on."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others: Iterable[int] = (byte for byte in range(256) if byte not in printable)
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
