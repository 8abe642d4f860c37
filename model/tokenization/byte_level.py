"""Byte-level BPE from `vocab.json` and `merges.txt`: GPT-2, RoBERTa and BART, Qwen2."""

from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors

from model.config import CheckpointError
from model.tokenization.special_tokens import Settings, add_tokens, content, token_id

END_OF_TEXT = "<|endoftext|>"
GPT2_TOKENS = {"bos_token": END_OF_TEXT, "eos_token": END_OF_TEXT, "unk_token": END_OF_TEXT}
QWEN2_TOKENS = {"eos_token": END_OF_TEXT, "unk_token": END_OF_TEXT, "pad_token": END_OF_TEXT}
ROBERTA_TOKENS: dict[str, Any] = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    # the blank before a mask belongs to the word that the mask stands for
    "mask_token": {"content": "<mask>", "lstrip": True},
}

# One digit at a time, a word with the sign before it, line breaks with what they end.
_QWEN2_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def gpt2(folder: Path, settings: Settings) -> tokenizers.Tokenizer:
    """No template, unless the settings ask for the beginning or the end to be marked."""
    inner = _bpe(folder)
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=_prefix_space(settings))
    add_tokens(inner, folder, settings)
    inner.post_processor = _ends(inner, folder, settings)
    return inner


def qwen2(folder: Path, settings: Settings) -> tokenizers.Tokenizer:
    """GPT-2's bytes, but text is composed first and cut into words by another rule."""
    inner = _bpe(folder)
    inner.normalizer = normalizers.NFC()
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_QWEN2_WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=_prefix_space(settings), use_regex=False),
        ]
    )
    add_tokens(inner, folder, settings)
    inner.post_processor = _ends(inner, folder, settings)
    return inner


def roberta(folder: Path, settings: Settings) -> tokenizers.Tokenizer:
    """`<s> A </s></s> B </s>`; offsets leave out the blank that a token begins with."""
    inner = _bpe(folder)
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=_prefix_space(settings))
    add_tokens(inner, folder, settings)
    inner.post_processor = processors.RobertaProcessing(
        token_id(inner, folder, settings, "sep_token"),
        token_id(inner, folder, settings, "cls_token"),
        trim_offsets=bool(settings.get("trim_offsets", True)),
        add_prefix_space=_prefix_space(settings),
    )
    return inner


def _bpe(folder: Path) -> tokenizers.Tokenizer:
    vocabulary_file, merges_file = folder / "vocab.json", folder / "merges.txt"
    for file in (vocabulary_file, merges_file):
        if not file.is_file():
            raise CheckpointError(f"{file} is missing, and so is tokenizer.json")
    try:
        vocabulary, merges = models.BPE.read_file(str(vocabulary_file), str(merges_file))
    except Exception as fault:  # the library raises nothing narrower
        raise CheckpointError(f"{vocabulary_file} and merges.txt: {fault}") from None
    try:
        model = models.BPE(
            vocabulary, merges, continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False
        )
    except Exception as fault:
        raise CheckpointError(f"{merges_file}: {fault}") from None
    inner = tokenizers.Tokenizer(model)
    inner.decoder = decoders.ByteLevel()
    return inner


def _prefix_space(settings: Settings) -> bool:
    return bool(settings.get("add_prefix_space", False))


def _ends(inner: tokenizers.Tokenizer, folder: Path, settings: Settings) -> processors.TemplateProcessing:
    marks = {}
    for name in ("bos_token", "eos_token"):
        if settings.get(f"add_{name}") and content(settings.get(name)) is not None:
            marks[name] = token_id(inner, folder, settings, name)
    halves = []
    for part, kind in (("$A", 0), ("$B", 1)):
        before = [f"{marks['bos_token'][0]}:{kind}"] if "bos_token" in marks else []
        after = [f"{marks['eos_token'][0]}:{kind}"] if "eos_token" in marks else []
        halves.append([*before, f"{part}:{kind}", *after])
    return processors.TemplateProcessing(
        single=halves[0], pair=[*halves[0], *halves[1]], special_tokens=sorted(set(marks.values()))
    )
