"""What a checkpoint's small files say about special and added tokens. Knows no format of vocabulary."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import AddedToken

from model.config import CheckpointError
from model.families import read_json

Settings = Mapping[str, Any]
"""`tokenizer_config.json` with the special tokens of the other files in it."""

NAMES = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


def read_settings(folder: Path) -> dict[str, Any]:
    """All that the small files say; {} where there are none.

    `special_tokens_map.json` wins, since it keeps the flags of tokens, but not over a config that lists its tokens
    by id: such a config is newer and complete.
    """
    settings: dict[str, Any] = {}
    if (folder / "tokenizer_config.json").is_file():
        settings = read_json(folder / "tokenizer_config.json")
    if (folder / "special_tokens_map.json").is_file():
        names = read_json(folder / "special_tokens_map.json")
        settings = names | settings if settings.get("added_tokens_decoder") else settings | names
    return settings


def content(token: Any) -> str | None:
    """A special token is published as a string or as an object with its content."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def with_defaults(settings: Settings, defaults: Mapping[str, Any]) -> dict[str, Any]:
    """The settings, with the special tokens that a kind of tokenizer has where nothing is said.

    A bare string that names the default token gets the default's flags.
    """
    merged = {**defaults, **settings}
    for name, default in defaults.items():
        if isinstance(merged[name], str) and merged[name] == content(default):
            merged[name] = default
    return merged


def published_ids(folder: Path, settings: Settings) -> dict[int, AddedToken]:
    """The added tokens whose ids are published. Raises CheckpointError for an entry that is not one."""
    listed = settings.get("added_tokens_decoder")
    if listed:
        file = folder / "tokenizer_config.json"
        entries = _items(file, listed)
    else:
        file = folder / "added_tokens.json"
        named = {content(settings.get(name)) for name in NAMES} | {
            content(token) for token in extra(settings)
        }
        old = _items(file, read_json(file)) if file.is_file() else []
        entries = [(token_id, {"content": text, "special": text in named}) for text, token_id in old]
    found = {}
    for token_id, value in entries:
        try:
            found[int(token_id)] = added_token(value)
        except (TypeError, ValueError) as fault:
            raise CheckpointError(f"{file}: added token {token_id!r}: {fault}") from None
    return dict(sorted(found.items()))


def extra(settings: Settings) -> list[Any]:
    """Special tokens beside the named ones, as published."""
    tokens = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    return list(tokens.values()) if isinstance(tokens, dict) else list(tokens)


def added_token(value: Any, special: bool = False) -> AddedToken:
    """From its published form; TypeError for anything else. Matched in raw text unless its flags say otherwise."""
    text = content(value)
    if text is None:
        raise TypeError(f"not a token: {value!r}")
    flags = value if isinstance(value, dict) else {}
    is_special = special or bool(flags.get("special", False))
    return AddedToken(
        text,
        special=is_special,
        lstrip=bool(flags.get("lstrip", False)),
        rstrip=bool(flags.get("rstrip", False)),
        single_word=bool(flags.get("single_word", False)),
        normalized=bool(flags.get("normalized", not is_special)),
    )


def add_tokens(
    inner: tokenizers.Tokenizer, folder: Path, settings: Settings, family_tokens: Iterable[AddedToken] = ()
) -> None:
    """Adds every token that the settings name, those with published ids first, and sees that they get those ids.

    `family_tokens` come next, since families number theirs before the mask.
    """
    known = published_ids(folder, settings)
    if known:
        inner.add_tokens(list(known.values()))
    for token_id, token in known.items():
        if inner.token_to_id(token.content) != token_id:
            raise CheckpointError(
                f"{folder}: added token {token.content!r} is published with id {token_id}, "
                f"but the vocabulary gives it {inner.token_to_id(token.content)}"
            )
    listed = {token.content for token in known.values()}
    inner.add_tokens([token for token in family_tokens if token.content not in listed])
    named = [settings[name] for name in NAMES if settings.get(name) is not None]
    try:
        tokens = [added_token(value, special=True) for value in [*named, *extra(settings)]]
    except TypeError as fault:
        raise CheckpointError(f"{folder / 'tokenizer_config.json'}: {fault}") from None
    inner.add_special_tokens([token for token in tokens if token.content not in listed])


def token_id(inner: tokenizers.Tokenizer, folder: Path, settings: Settings, name: str) -> tuple[str, int]:
    """A named special token and its id; CheckpointError where there is none."""
    text = content(settings.get(name))
    found = None if text is None else inner.token_to_id(text)
    if text is None or found is None:
        raise CheckpointError(
            f"{folder}: the tokenizer needs a {name}, and {text!r} is not in its vocabulary"
        )
    return text, found


def _items(file: Path, value: Any) -> list[tuple[Any, Any]]:
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: added tokens are not an object")
    return list(value.items())
