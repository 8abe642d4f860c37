"""Text to token ids and back, from the folder's `tokenizer.json`. Torch-free."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers

from model.config import CheckpointError
from model.families import read_json

TextOrPair = str | tuple[str, str]


@dataclass(frozen=True)
class Encoding:
    """One text, or pair, as the model reads it; all lists have one entry a token.

    `offsets` are character spans in the text that `sequence_ids` names (0, 1, or None for a
    special token).
    """

    ids: list[int]
    type_ids: list[int]
    offsets: list[tuple[int, int]]
    sequence_ids: list[int | None]
    special_mask: list[int]


class Tokenizer:
    """A checkpoint's own tokenizer; it never cuts and never pads."""

    def __init__(self, inner: tokenizers.Tokenizer, settings: dict[str, Any]) -> None:
        inner.no_truncation()
        inner.no_padding()
        self._inner = inner
        self.settings = settings
        self.max_length = _max_length(settings)
        self.special_tokens = {
            key: content
            for key in (
                "bos_token",
                "eos_token",
                "unk_token",
                "sep_token",
                "pad_token",
                "cls_token",
                "mask_token",
            )
            if (content := _content(settings.get(key))) is not None
        }

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer":
        """Raises CheckpointError that names the missing or broken file."""
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise CheckpointError(f"{file} is missing")
        try:
            inner = tokenizers.Tokenizer.from_file(str(file))
        except Exception as fault:  # the library raises nothing narrower
            raise CheckpointError(f"{file}: {fault}") from None
        settings: dict[str, Any] = {}
        for name in ("special_tokens_map.json", "tokenizer_config.json"):
            if (folder / name).is_file():
                settings |= read_json(folder / name)
        return cls(inner, settings)

    def encode(self, text: str, pair: str | None = None, add_special_tokens: bool = True) -> Encoding:
        """Characters to tokens, with the checkpoint's template around them."""
        return _encoding(self._inner.encode(text, pair, add_special_tokens=add_special_tokens))

    def encode_batch(self, texts: Sequence[TextOrPair], add_special_tokens: bool = True) -> list[Encoding]:
        """Many at once, in the same order."""
        encoded = self._inner.encode_batch(list(texts), add_special_tokens=add_special_tokens)
        return [_encoding(e) for e in encoded]

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Token ids to text."""
        text: str = self._inner.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text

    def token_id(self, token: str) -> int | None:
        """The id of a token as the vocabulary spells it."""
        return self._inner.token_to_id(token)

    def id_to_token(self, token_id: int) -> str | None:
        """A token as the vocabulary spells it."""
        return self._inner.id_to_token(token_id)

    @property
    def vocab_size(self) -> int:
        """Entries, added tokens included."""
        size: int = self._inner.get_vocab_size()
        return size

    @property
    def kind(self) -> str:
        """How it cuts words: BPE, WordPiece, Unigram or WordLevel."""
        return type(self._inner.model).__name__

    @property
    def mask_token(self) -> str | None:
        """What stands for a masked token in a text, where the checkpoint has it."""
        return self.special_tokens.get("mask_token")

    @property
    def mask_token_id(self) -> int | None:
        """Its id."""
        return None if self.mask_token is None else self.token_id(self.mask_token)

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that `decode` leaves out."""
        added = json.loads(self._inner.to_str())["added_tokens"]
        return frozenset(entry["id"] for entry in added if entry["special"])


def _encoding(e: tokenizers.Encoding) -> Encoding:
    return Encoding(e.ids, e.type_ids, e.offsets, e.sequence_ids, e.special_tokens_mask)


def _content(token: Any) -> str | None:
    """A special token is published as a string or as an object with its content."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def _max_length(settings: dict[str, Any]) -> int | None:
    """`transformers` writes a huge number for "no limit"."""
    length = settings.get("model_max_length")
    return int(length) if isinstance(length, int | float) and length < 10**9 else None
