"""Which kind of tokenizer a checkpoint has, and how each kind is built from its files. A table."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import tokenizers
from tokenizers import processors

from model.config import CheckpointError
from model.families import read_json
from model.tokenization import byte_level, fairseq, languages, marian, sentencepiece, wordpiece
from model.tokenization.marian import Mapped
from model.tokenization.special_tokens import Settings, token_id


@dataclass(frozen=True)
class Languages:
    """How a multilingual kind spells a code as a token, and where it goes: round the text by template, or in it."""

    token: str
    place: Literal["before", "after", "text"]
    default: str = ""
    codes: Sequence[str] = ()
    """() for what the vocabulary holds."""


@dataclass(frozen=True)
class Kind:
    """`tokens` are the special tokens where the checkpoint does not say."""

    build: Callable[[Path, Settings], "tokenizers.Tokenizer | Mapped"]
    tokens: Mapping[str, Any] = field(default_factory=dict)
    languages: Languages | None = None


KINDS: Mapping[str, Kind] = {
    "BertTokenizer": Kind(wordpiece.bert, wordpiece.BERT_TOKENS),
    "GPT2Tokenizer": Kind(byte_level.gpt2, byte_level.GPT2_TOKENS),
    "RobertaTokenizer": Kind(byte_level.roberta, byte_level.ROBERTA_TOKENS),
    "Qwen2Tokenizer": Kind(byte_level.qwen2, byte_level.QWEN2_TOKENS),
    "T5Tokenizer": Kind(sentencepiece.t5, sentencepiece.T5_TOKENS),
    "PegasusTokenizer": Kind(sentencepiece.pegasus, sentencepiece.PEGASUS_TOKENS),
    "DebertaV2Tokenizer": Kind(sentencepiece.deberta_v2, sentencepiece.DEBERTA_TOKENS),
    "XLMRobertaTokenizer": Kind(fairseq.xlm_roberta, fairseq.FAIRSEQ_TOKENS),
    "MBartTokenizer": Kind(
        fairseq.mbart, fairseq.MULTILINGUAL_TOKENS, Languages("{}", "after", "en_XX", languages.MBART)
    ),
    "MBart50Tokenizer": Kind(
        fairseq.mbart50, fairseq.MULTILINGUAL_TOKENS, Languages("{}", "before", "en_XX", languages.MBART50)
    ),
    "NllbTokenizer": Kind(
        fairseq.nllb, fairseq.MULTILINGUAL_TOKENS, Languages("{}", "before", "eng_Latn", languages.NLLB)
    ),
    "M2M100Tokenizer": Kind(
        marian.m2m100, marian.M2M100_TOKENS, Languages("__{}__", "before", "en", languages.M2M100)
    ),
    "MarianTokenizer": Kind(marian.marian, marian.MARIAN_TOKENS, Languages(">>{}<<", "text")),
}
"""By the published class, `Fast` left out."""

_SAME_AS = {
    "BartTokenizer": "RobertaTokenizer",
    "DistilBertTokenizer": "BertTokenizer",
    "MT5Tokenizer": "T5Tokenizer",
}
_OF_MODEL_TYPE = {
    "bart": "RobertaTokenizer",
    "bert": "BertTokenizer",
    "deberta-v2": "DebertaV2Tokenizer",
    "distilbert": "BertTokenizer",
    "gpt2": "GPT2Tokenizer",
    "m2m_100": "M2M100Tokenizer",
    "marian": "MarianTokenizer",
    "mbart": "MBartTokenizer",
    "mt5": "T5Tokenizer",
    "pegasus": "PegasusTokenizer",
    "qwen2": "Qwen2Tokenizer",
    "qwen3": "Qwen2Tokenizer",
    "roberta": "RobertaTokenizer",
    "t5": "T5Tokenizer",
    "xlm-roberta": "XLMRobertaTokenizer",
}


def kind_of(folder: Path, settings: Settings) -> Kind | None:
    """By the class that the settings name, else by the model's type; None for a kind not in the table."""
    name = str(settings.get("tokenizer_class") or "").removesuffix("Fast")
    name = _SAME_AS.get(name, name)
    if name not in KINDS and (folder / "config.json").is_file():
        config = read_json(folder / "config.json")
        name = str(config.get("tokenizer_class") or "").removesuffix("Fast")
        if name not in KINDS:
            name = _OF_MODEL_TYPE.get(str(config.get("model_type")), "")
    kind = KINDS.get(name)
    if kind is not None and kind.languages is not None and settings.get("legacy_behaviour", False):
        # the first NLLB checkpoints were tuned with the code after the text
        return Kind(kind.build, kind.tokens, Languages("{}", "after", "eng_Latn", languages.NLLB))
    return kind


def build(kind: Kind, folder: Path, settings: Settings) -> "tokenizers.Tokenizer | Mapped":
    """From the files of the kind. Raises CheckpointError that names the missing or broken one."""
    try:
        return kind.build(folder, settings)
    except (TypeError, ValueError, KeyError) as fault:  # a setting that is not of its type
        raise CheckpointError(f"{folder / 'tokenizer_config.json'}: {fault}") from None


def set_language_template(
    inner: tokenizers.Tokenizer, folder: Path, settings: Settings, spelling: Languages | None
) -> str | None:
    """The code of the settings' source language, or the kind's own, round every text; returns the code's token.

    None, and nothing is done, for a kind without such a template, or a vocabulary without languages.
    """
    if spelling is None or spelling.place == "text":
        return None
    if all(inner.token_to_id(spelling.token.format(code)) is None for code in spelling.codes):
        return None
    code = spelling.token.format(settings.get("src_lang") or spelling.default)
    named = {**settings, "language_token": code}
    language = token_id(inner, folder, named, "language_token")
    end = token_id(inner, folder, named, "eos_token")
    before = [language[0]] if spelling.place == "before" else []
    after = [end[0]] if before else [end[0], language[0]]
    inner.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *after], pair=[*before, "$A", "$B", *after], special_tokens=[language, end]
    )
    return language[0]


def find_languages(inner: tokenizers.Tokenizer, spelling: Languages) -> dict[str, int]:
    """The codes that the vocabulary has tokens for, and their ids."""
    if spelling.codes:
        ids = {code: inner.token_to_id(spelling.token.format(code)) for code in spelling.codes}
        return {code: found for code, found in ids.items() if found is not None}
    opening, closing = spelling.token.split("{}")
    return {
        token.removeprefix(opening).removesuffix(closing): number
        for token, number in sorted(inner.get_vocab().items(), key=lambda item: item[1])
        if token.startswith(opening) and token.endswith(closing)
    }
