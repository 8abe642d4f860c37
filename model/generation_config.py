"""How a checkpoint's makers generate with it, as `generation_config.json` says. Knows no tensors.

Read and kept, but not acted on: groups of beams that must differ, and the two settings that are about the encoder's
tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from model.config import CheckpointError

MAX_NGRAM_SIZE = 64
MAX_BAD_WORDS = 1024
"""What the engine takes; a checkpoint that asks for more is refused when it is read, not at each request."""


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """None where nothing is published. Lengths count tokens; `max_length` and `min_length` count what the
    decoder is given as well, the two with `new` in their names do not."""

    max_length: int | None = None
    max_new_tokens: int | None = None
    min_length: int | None = None
    min_new_tokens: int | None = None

    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | Literal["never"] = False
    num_beam_groups: int = 1
    diversity_penalty: float = 0.0

    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    encoder_repetition_penalty: float = 1.0

    do_sample: bool = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None

    eos_token_ids: tuple[int, ...] = ()
    decoder_start_token_id: int | None = None
    forced_bos_token_id: int | None = None
    forced_eos_token_ids: tuple[int, ...] = ()
    bad_words_ids: tuple[tuple[int, ...], ...] = ()

    task_params: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """By task (`summarization`): fields of this class that it has other values for."""

    @property
    def suppressed_token_ids(self) -> tuple[int, ...]:
        """Tokens that are never generated: the bad words of one token, but not an end token."""
        alone = (word[0] for word in self.bad_words_ids if len(word) == 1)
        return tuple(sorted({token_id for token_id in alone if token_id not in self.eos_token_ids}))

    @property
    def longer_bad_words(self) -> tuple[tuple[int, ...], ...]:
        """The bad words of several tokens, of which the last one must not follow the others."""
        return tuple(word for word in self.bad_words_ids if len(word) > 1)


def parse_generation_config(raw: Mapping[str, Any], file: Path, vocab_size: int) -> GenerationConfig:
    """From the object that `file` holds. Raises CheckpointError for a value out of range, by its key."""
    read = _Reader(raw, file)
    early = raw.get("early_stopping")
    if early not in (None, False, True, "never"):
        raise read.fault("early_stopping", 'true, false or "never"')
    return GenerationConfig(
        max_length=read.integer("max_length", 1),
        max_new_tokens=read.integer("max_new_tokens", 1),
        min_length=read.integer("min_length", 0),
        min_new_tokens=read.integer("min_new_tokens", 0),
        num_beams=read.integer("num_beams", 1) or 1,
        length_penalty=1.0 if raw.get("length_penalty") is None else read.number("length_penalty") or 0.0,
        early_stopping=early or False,
        num_beam_groups=read.integer("num_beam_groups", 1) or 1,
        diversity_penalty=read.number("diversity_penalty") or 0.0,
        no_repeat_ngram_size=read.integer("no_repeat_ngram_size", 0, MAX_NGRAM_SIZE) or 0,
        encoder_no_repeat_ngram_size=read.integer("encoder_no_repeat_ngram_size", 0) or 0,
        encoder_repetition_penalty=read.number("encoder_repetition_penalty", 0.01, 100.0) or 1.0,
        do_sample=read.flag("do_sample"),
        temperature=read.number("temperature", 0.0, 2.0),
        top_k=read.integer("top_k", -1),
        top_p=read.number("top_p", 0.01, 1.0),
        min_p=read.number("min_p", 0.0, 1.0),
        repetition_penalty=read.number("repetition_penalty", 0.01, 100.0),
        eos_token_ids=read.token_ids("eos_token_id"),
        decoder_start_token_id=read.integer("decoder_start_token_id", 0, vocab_size - 1),
        forced_bos_token_id=read.integer("forced_bos_token_id", 0, vocab_size - 1),
        forced_eos_token_ids=read.token_ids("forced_eos_token_id", vocab_size - 1),
        bad_words_ids=read.words("bad_words_ids", vocab_size),
    )


def parse_task_params(raw: Mapping[str, Any], file: Path, vocab_size: int) -> dict[str, dict[str, Any]]:
    """What the `task_specific_params` of `config.json` say about generation. Raises CheckpointError as above."""
    parsed = {}
    for task, params in raw.items():
        if isinstance(params, Mapping):
            config = parse_generation_config(params, file, vocab_size)
            given = {
                f"{key}s" if key.endswith("eos_token_id") else key
                for key, v in params.items()
                if v is not None
            }
            said = {one.name: getattr(config, one.name) for one in fields(config) if one.name in given}
            if said:
                parsed[task] = said
    return parsed


@dataclass(frozen=True)
class _Reader:
    """Values by their keys, checked; a key that is left out or null has none."""

    raw: Mapping[str, Any]
    file: Path

    def fault(self, key: str, wanted: str) -> CheckpointError:
        return CheckpointError(f"{self.file}: {key} must be {wanted}, not {str(self.raw[key])[:100]!r}")

    def integer(self, key: str, low: int, high: int | None = None) -> int | None:
        value = self.raw.get(key)
        if value is not None and not _is_integer(value, low, high):
            limits = f"of at least {low}" if high is None else f"in {low}..{high}"
            raise self.fault(key, f"an integer {limits}")
        return value

    def number(self, key: str, low: float = float("-inf"), high: float = float("inf")) -> float | None:
        value = self.raw.get(key)
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise self.fault(key, "a number" if low == float("-inf") else f"a number in {low:g}..{high:g}")
        return float(value)

    def flag(self, key: str) -> bool:
        value = self.raw.get(key)
        if value not in (None, False, True):
            raise self.fault(key, "true or false")
        return bool(value)

    def token_ids(self, key: str, high: int | None = None) -> tuple[int, ...]:
        value = self.raw.get(key)
        if value is None:
            return ()
        ids = value if isinstance(value, list) else [value]
        if not all(_is_integer(token_id, 0, high) for token_id in ids):
            raise self.fault(key, "a token id or a list of them")
        return tuple(ids)

    def words(self, key: str, vocab_size: int) -> tuple[tuple[int, ...], ...]:
        value = self.raw.get(key)
        if value is None:
            return ()
        is_list = isinstance(value, list) and len(value) <= MAX_BAD_WORDS
        is_right = is_list and all(
            isinstance(word, list) and word and all(_is_integer(i, 0, vocab_size - 1) for i in word)
            for word in value
        )
        if not is_right:
            raise self.fault(key, f"a list of at most {MAX_BAD_WORDS} lists of token ids below {vocab_size}")
        return tuple(tuple(word) for word in value)


def _is_integer(value: object, low: int, high: int | None) -> bool:
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return is_whole and low <= value and (high is None or value <= high)  # type: ignore[operator]
