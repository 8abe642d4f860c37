"""Which languages a checkpoint translates between, and how it is asked to. Knows no texts and no engine.

Checkpoints are asked in one of three ways: by words before the text (T5), by the text's language beside the text and
the answer's as the first token (mBART, M2M100, NLLB), or by nothing but, where there are several answers, a code in
the text (Marian).
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from app.errors import InvalidRequest
from app.tasks.language_codes import SHORT
from model.config import TransformerConfig
from model.tokenization import Tokenizer

_PREFIX_KEY = re.compile(r"^translation_([A-Za-z]{2,3}(?:-\w+)?)_to_([A-Za-z]{2,3}(?:-\w+)?)$")
_OPUS_NAME = re.compile(
    r"opus-mt-(?:tc-(?:bible-)?(?:big|base|small|tiny)-)?([A-Za-z_+]{2,})-([A-Za-z_+]{2,})/?$"
)
_REGION_OR_SCRIPT = re.compile(r"([a-z]{2}|[a-z]{4})?")
_TRANSLATORS = frozenset(("marian", "mbart", "m2m_100"))
_LISTED = 12
"""Codes that an error message names."""


@dataclass(frozen=True)
class Way:
    """How one direction is asked for: words before each text, the tokenizer's language, the answer's first token."""

    prefix: str = ""
    language: str | None = None
    first_token: int | None = None


class Languages(Protocol):
    """What one checkpoint translates."""

    def way(self, source: str | None, target: str) -> Way:
        """Codes as published, or short where that is clear. Raises InvalidRequest that names the field."""

    def told(self) -> dict[str, Any]:
        """`pairs` of [source, target], or `any` to any other of these, or each `target` alone; {} where unknown."""


def translates(config: TransformerConfig) -> bool:
    """Whether a checkpoint of this shape is made for it, or names its pairs."""
    is_one = config.kind == "encoder-decoder" and config.head == "lm"
    return is_one and (config.family in _TRANSLATORS or bool(prefixed_pairs(config)))


def find_languages(model: str, config: TransformerConfig, tokenizer: Tokenizer) -> Languages:
    """By the checkpoint's family and what its files say; `model` is its name, for messages."""
    # a tokenizer may know more tokens than the model
    ids = {code: number for code, number in tokenizer.languages.items() if number < config.vocab_size}
    settings = tokenizer.settings
    if config.family == "marian":
        source, target = _published_pair(settings, config)
        is_for_one = target is not None and _is_one_language(target) and not matching(target, ids)
        return CodeInText(model, source, target, () if is_for_one else tuple(ids))
    if config.family in _TRANSLATORS and ids:
        default = settings.get("src_lang")
        # the first mBART begins with the answer's code, and is tuned for one
        start = next((code for code, number in ids.items() if number == config.decoder_start_token_id), None)
        return FirstToken(model, ids, default if default in ids else None, start)
    return Prefixes(model, prefixed_pairs(config))


def prefixed_pairs(config: TransformerConfig) -> dict[tuple[str, str], str]:
    """(source, target) → the prefix that asks for it, as the checkpoint's `task_specific_params` say."""
    published = config.extra.get("task_specific_params")
    pairs: dict[tuple[str, str], str] = {}
    for key, values in published.items() if isinstance(published, Mapping) else ():
        match = _PREFIX_KEY.match(str(key))
        prefix = values.get("prefix", "") if isinstance(values, Mapping) else ""
        if match and isinstance(prefix, str):
            pairs[match[1].lower(), match[2].lower()] = prefix
    return pairs


@dataclass(frozen=True)
class Prefixes:
    """T5: words before the text name the pair."""

    model: str
    pairs: Mapping[tuple[str, str], str]

    def way(self, source: str | None, target: str) -> Way:
        """See `Languages`; `source` may be left out where the target has one."""
        targets = sorted({pair[1] for pair in self.pairs})
        to = _choose(target, targets, "target", f"{self.model!r} translates to")
        sources = sorted(pair[0] for pair in self.pairs if pair[1] == to)
        if source is None and len(sources) == 1:
            source = sources[0]
        if source is None:
            raise _say_source(sources)
        chosen = _choose(source, sources, "source", f"{self.model!r} translates to {to} from")
        return Way(prefix=self.pairs[chosen, to])

    def told(self) -> dict[str, Any]:
        """See `Languages`."""
        return {"pairs": [list(pair) for pair in self.pairs]}


@dataclass(frozen=True)
class FirstToken:
    """mBART, M2M100, NLLB: any to any of `ids`; `only_target` is the one that the decoder starts with by itself."""

    model: str
    ids: Mapping[str, int]
    default_source: str | None = None
    only_target: str | None = None

    def way(self, source: str | None, target: str) -> Way:
        """See `Languages`; `source` may be left out where the checkpoint has a default."""
        targets = list(self.ids) if self.only_target is None else [self.only_target]
        to = _choose(target, targets, "target", f"{self.model!r} translates to")
        source = self.default_source if source is None else source
        if source is None:
            raise _say_source(list(self.ids))
        chosen = _choose(source, list(self.ids), "source", f"{self.model!r} translates from")
        return Way(language=chosen, first_token=self.ids[to] if self.only_target is None else None)

    def told(self) -> dict[str, Any]:
        """See `Languages`."""
        if self.only_target is None:
            return {"any": list(self.ids)}
        return {"pairs": [[code, self.only_target] for code in self.ids if code != self.only_target]}


@dataclass(frozen=True)
class CodeInText:
    """Marian: one pair, or several targets whose `codes` go into the text. What is not published is taken as given."""

    model: str
    source: str | None = None
    target: str | None = None
    codes: Sequence[str] = ()

    def way(self, source: str | None, target: str) -> Way:
        """See `Languages`; a `source` is held against the pair's, unless that is a group of languages."""
        if source is not None and self.source is not None and _is_one_language(self.source):
            _choose(source, [self.source], "source", f"{self.model!r} translates from")
        if self.codes:
            return Way(language=_choose(target, self.codes, "target", f"{self.model!r} translates to"))
        if self.target is not None:
            _choose(target, [self.target], "target", f"{self.model!r} translates to")
        return Way()

    def told(self) -> dict[str, Any]:
        """See `Languages`."""
        targets = list(self.codes) or ([] if self.target is None else [self.target])
        if self.source is not None and targets:
            return {"pairs": [[self.source, target] for target in targets]}
        return {"target": targets} if targets else {}


def matching(given: str, codes: Collection[str]) -> list[str]:
    """Which codes `given` may mean: the same but for case, else the same language and script, else the language."""
    if given in codes:
        return [given]
    alike = [code for code in codes if _folded(code) == _folded(given)]
    language, rest = code_parts(given)
    same = [code for code in codes if code_parts(code)[0] == language]
    exact = [code for code in same if code_parts(code)[1] == rest]
    return alike or exact or ([] if rest else same)


def _choose(given: str, codes: Collection[str], param: str, known: str) -> str:
    """The one code that is meant; `known` begins the message that lists those there are."""
    found = matching(given, codes)
    if not found:
        listed = _listed(codes, given) or "no language that its files name"
        raise InvalidRequest(f"{known} {listed}", param)
    if len(found) > 1:
        raise InvalidRequest(f"{given[:20]!r} may be {_listed(found)}", param)
    return found[0]


def _say_source(codes: Collection[str]) -> InvalidRequest:
    return InvalidRequest(f"say which language the text is in: {_listed(codes)}", "source")


def _listed(codes: Collection[str], given: str = "") -> str:
    """Some of them, those that begin as `given` does first."""
    begin = given[:2].lower() or "-"
    ordered = sorted(codes, key=lambda code: (not code.lower().startswith(begin), code))
    more = len(ordered) - _LISTED
    return ", ".join(ordered[:_LISTED]) + (f" and {more} more (see /v1/models)" if more > 0 else "")


def _folded(code: str) -> str:
    return code.replace("-", "_").lower()


def code_parts(code: str) -> tuple[str, str]:
    """The language, in two letters where it has such, and what follows: eng_Latn → en, latn. No region is "XX"."""
    language, _, rest = _folded(code).partition("_")
    return SHORT.get(language, language), "" if rest == "xx" else rest


def _is_one_language(code: str) -> bool:
    """Not for a group's name (mul, gem, ROMANCE), several joined (fr+es, cat_oci), or what we do not know."""
    language, rest = code_parts(code)
    return len(language) == 2 and _REGION_OR_SCRIPT.fullmatch(rest) is not None


def _published_pair(settings: Mapping[str, Any], config: TransformerConfig) -> tuple[str | None, str | None]:
    """By the tokenizer's settings, else by the published name of the checkpoint (opus-mt-en-de)."""
    name = _OPUS_NAME.search(str(config.extra.get("_name_or_path", "")))
    named = (name[1], name[2]) if name else (None, None)
    told = tuple(settings.get(key) for key in ("source_lang", "target_lang"))
    source, target = (one if isinstance(one, str) and one else None for one in told)
    return source or named[0], target or named[1]
