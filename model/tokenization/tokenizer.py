"""Text to token ids and back: `tokenizer.json` where there is one, else what the checkpoint has in its place."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tokenizers

from model.config import CheckpointError
from model.tokenization.kinds import Languages, build, find_languages, kind_of, set_language_template
from model.tokenization.marian import Mapped
from model.tokenization.special_tokens import NAMES, content, read_settings, with_defaults
from model.tokenization.spelling import Spelling, spell

TextOrPair = str | tuple[str, str]


@dataclass(frozen=True)
class Encoding:
    """One text, or pair, as the model reads it; all lists have one entry a token.

    `offsets` are character spans in the text that `sequence_ids` names (0, 1, or None for a
    special token). `word_ids` number the words that the text was cut into before its tokens.
    """

    ids: list[int]
    type_ids: list[int]
    offsets: list[tuple[int, int]]
    sequence_ids: list[int | None]
    special_mask: list[int]
    word_ids: list[int | None]


class Tokenizer:
    """A checkpoint's own tokenizer; it never cuts and never pads.

    `languages` are the codes that a multilingual checkpoint has tokens for, and their ids.
    """

    def __init__(
        self,
        inner: tokenizers.Tokenizer | Mapped,
        settings: Mapping[str, Any],
        spelling: Languages | None = None,
        language_token: str | None = None,
    ) -> None:
        """`language_token` is the one in the template that a request's own language takes the place of."""
        is_mapped = isinstance(inner, Mapped)
        self._reader = inner.reader if isinstance(inner, Mapped) else inner
        self._writer = inner.writer if isinstance(inner, Mapped) else inner
        self._ids = inner.ids if isinstance(inner, Mapped) else None
        self._reader.no_truncation()
        self._reader.no_padding()
        self.settings = settings
        self.max_length = _max_length(settings)
        self.special_tokens = {key: text for key in NAMES if (text := content(settings.get(key))) is not None}
        self._puts_codes_in_text = spelling is not None and spelling.place == "text"
        self._has_codes_in_text = is_mapped and self._puts_codes_in_text
        self._language_id = None if language_token is None else self.token_id(language_token)
        self._code = spelling.token if spelling is not None else "{}"
        self.languages = {} if spelling is None else find_languages(self._writer, spelling)

    @classmethod
    def from_folder(cls, folder: Path) -> "Tokenizer":
        """Raises CheckpointError that names the missing or broken file."""
        file = folder / "tokenizer.json"
        settings = read_settings(folder)
        kind = kind_of(folder, settings)
        inner: tokenizers.Tokenizer | Mapped
        if file.is_file():
            try:
                inner = tokenizers.Tokenizer.from_file(str(file))
            except Exception as fault:  # the library raises nothing narrower
                raise CheckpointError(f"{file}: {fault}") from None
            defaults = {} if kind is None else kind.tokens
            known = {key: t for key, t in defaults.items() if inner.token_to_id(content(t) or "") is not None}
            settings = with_defaults(settings, known)
        elif kind is None:
            raise CheckpointError(f"{file} is missing, and nothing says of which kind the tokenizer is")
        else:
            settings = with_defaults(settings, kind.tokens)
            inner = build(kind, folder, settings)
        spelling = None if kind is None else kind.languages
        reader = inner.reader if isinstance(inner, Mapped) else inner
        language_token = set_language_template(reader, folder, settings, spelling)
        return cls(inner, settings, spelling, language_token)

    def encode(
        self,
        text: str,
        pair: str | None = None,
        add_special_tokens: bool = True,
        language: str | None = None,
    ) -> Encoding:
        """Characters to tokens, with the checkpoint's template around them.

        `language` is a code of `languages`: the text's own, or, where codes stand in the text (Marian), the
        answer's. ValueError for one that the checkpoint does not have.
        """
        return self.encode_batch([text if pair is None else (text, pair)], add_special_tokens, language)[0]

    def encode_batch(
        self, texts: Sequence[TextOrPair], add_special_tokens: bool = True, language: str | None = None
    ) -> list[Encoding]:
        """Many at once, in the same order."""
        if language is not None and language not in self.languages:
            raise ValueError(f"unknown language {language!r}")
        if self._has_codes_in_text or (self._puts_codes_in_text and language is not None):
            return [self._encode_with_code(text, add_special_tokens, language) for text in texts]
        encoded = [
            self._encoding(e)
            for e in self._reader.encode_batch(list(texts), add_special_tokens=add_special_tokens)
        ]
        if language is None:
            return encoded
        wanted = self.languages[language]
        for e in encoded:
            for i, token_id in enumerate(e.ids):
                if e.special_mask[i] and token_id == self._language_id:
                    e.ids[i] = wanted
        return encoded

    def decode(self, ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        """Token ids to text."""
        text: str = self._writer.decode(list(ids), skip_special_tokens=skip_special_tokens)
        return text

    def token_id(self, token: str) -> int | None:
        """The id of a token as the vocabulary spells it."""
        return self._writer.token_to_id(token)

    def id_to_token(self, token_id: int) -> str | None:
        """A token as the vocabulary spells it."""
        return self._writer.id_to_token(token_id)

    def join_tokens(self, tokens: Sequence[str]) -> str:
        """The text that the decoder makes of tokens as the vocabulary spells them; others are taken as they are."""
        decoder = self._writer.decoder
        text: str = " ".join(tokens) if decoder is None else decoder.decode(list(tokens))
        return text

    @property
    def vocab_size(self) -> int:
        """Entries, added tokens included."""
        size: int = self._writer.get_vocab_size()
        return size

    @property
    def kind(self) -> str:
        """How it cuts words: BPE, WordPiece, Unigram or WordLevel."""
        return type(self._reader.model).__name__

    @property
    def mask_token(self) -> str | None:
        """What stands for a masked token in a text, where the checkpoint has it."""
        return self.special_tokens.get("mask_token")

    @property
    def mask_token_id(self) -> int | None:
        """Its id."""
        return None if self.mask_token is None else self.token_id(self.mask_token)

    @property
    def unk_token_id(self) -> int | None:
        """The id that stands for whatever the vocabulary lacks, where there is one."""
        token = self.special_tokens.get("unk_token")
        return None if token is None else self.token_id(token)

    @property
    def continuation(self) -> str:
        """The prefix of tokens that go on with a word (WordPiece: ##); empty where nothing marks them."""
        return getattr(self._reader.model, "continuing_subword_prefix", None) or ""

    @property
    def special_ids(self) -> frozenset[int]:
        """Ids that `decode` leaves out."""
        added = json.loads(self._writer.to_str())["added_tokens"]
        return frozenset(entry["id"] for entry in added if entry["special"])

    def spelling(self) -> Spelling:
        """What each token adds to a text; special tokens and the unknown one add nothing.

        Raises ValueError where the decoder does not tell.
        """
        named = {self.token_id(token) for token in self.special_tokens.values()}
        return spell(self._writer, self.special_ids | {i for i in named if i is not None})

    def _encoding(self, e: tokenizers.Encoding) -> Encoding:
        ids = e.ids if self._ids is None else [self._ids[i] for i in e.ids]
        return Encoding(ids, e.type_ids, e.offsets, e.sequence_ids, e.special_tokens_mask, e.word_ids)

    def _encode_with_code(self, text: TextOrPair, special: bool, language: str | None) -> Encoding:
        """A code at the very beginning of a text is one token, whether it is known or not."""
        first, pair = (text, None) if isinstance(text, str) else text
        if language is not None:
            first = self._code.format(language) + first
        opening, closing = self._code.split("{}")
        end = first.find(closing) if first.startswith(opening) else -1
        cut = 0 if end < 0 else end + len(closing)
        rest = self._encoding(self._reader.encode(first[cut:], pair, add_special_tokens=special))
        if not cut:
            return rest
        code_id = self.token_id(first[:cut])
        if code_id is None:
            code_id = self.token_id(self.special_tokens["unk_token"]) or 0
        # where the code came from the request, the text as the caller has it begins after it
        shift = 0 if language is not None else cut
        spans = [
            (a + shift, b + shift) if number == 0 else (a, b)
            for (a, b), number in zip(rest.offsets, rest.sequence_ids, strict=True)
        ]
        return replace(
            rest,
            ids=[code_id, *rest.ids],
            type_ids=[0, *rest.type_ids],
            offsets=[(0, shift), *spans],
            sequence_ids=[0 if shift else None, *rest.sequence_ids],
            special_mask=[0 if shift else 1, *rest.special_mask],
            word_ids=[None, *rest.word_ids],
        )


def _max_length(settings: Mapping[str, Any]) -> int | None:
    """`transformers` writes a huge number for "no limit"."""
    length = settings.get("model_max_length")
    return int(length) if isinstance(length, int | float) and length < 10**9 else None
