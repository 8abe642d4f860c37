"""SentencePiece files in fairseq's layout: XLM-R, mBART, mBART-50, NLLB. Ids begin with `<s> <pad> </s> <unk>`.

Where a family's published fast tokenizer departs from SentencePiece itself, the fast tokenizer is followed.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models, normalizers

from model.config import CheckpointError
from model.tokenization import languages
from model.tokenization.pieces import (
    ONE_SPACE,
    Vocabulary,
    marked,
    merges_of,
    metaspace,
    normalizer,
    scores,
    set_template,
    special,
    unigram,
)
from model.tokenization.sentencepiece_model import SentencePieceModel
from model.tokenization.special_tokens import Settings, add_tokens, content

FAIRSEQ_TOKENS: Mapping[str, Any] = {
    "bos_token": "<s>",
    "eos_token": "</s>",
    "unk_token": "<unk>",
    "sep_token": "</s>",
    "pad_token": "<pad>",
    "cls_token": "<s>",
    "mask_token": {"content": "<mask>", "lstrip": True},
}
MULTILINGUAL_TOKENS = {
    **FAIRSEQ_TOKENS,
    "mask_token": {"content": "<mask>", "lstrip": True, "normalized": True},
}
_FILE = "sentencepiece.bpe.model"
_UNKNOWN_ID = 3


def xlm_roberta(folder: Path, settings: Settings) -> tokenizers.Tokenizer:
    """`<s> A </s></s> B </s>`; fairseq's four tokens first, the mask last."""
    source = SentencePieceModel.read(folder / _FILE)
    mask = content(settings["mask_token"]) or "<mask>"
    inner = unigram(folder / _FILE, _fairseq(source, settings, [mask]), _UNKNOWN_ID)
    if source.charsmap:
        inner.normalizer = normalizers.Precompiled(source.charsmap)
    scheme = "always" if settings.get("add_prefix_space", True) else "never"
    metaspace(inner, scheme, splits_whitespace=True)
    add_tokens(inner, folder, settings, marked(source))
    set_template(inner, folder, settings, single="bos $A eos", pair="bos $A eos eos $B eos")
    return inner


def mbart(folder: Path, settings: Settings) -> tokenizers.Tokenizer:
    """Without a template, which depends on the language; so are `mbart50` and `nllb`."""
    source = SentencePieceModel.read(folder / _FILE)
    inner = _mbart(folder, settings, source, languages.MBART)
    metaspace(inner, splits_whitespace=True)
    return inner


def mbart50(folder: Path, settings: Settings) -> tokenizers.Tokenizer:
    """mBART with more languages, and with the file's table of replacements."""
    source = SentencePieceModel.read(folder / _FILE)
    inner = _mbart(folder, settings, source, languages.MBART50)
    inner.normalizer = normalizer(source, ONE_SPACE, instead=[ONE_SPACE])
    metaspace(inner)
    return inner


def nllb(folder: Path, settings: Settings) -> tokenizers.Tokenizer:
    """BPE; the languages are added after the file's pieces, then the mask."""
    file = folder / _FILE
    source = SentencePieceModel.read(file)
    ids: dict[str, int] = {}
    for text, _ in _fairseq(source, settings, []):
        ids.setdefault(text, len(ids))
    unknown = content(settings["unk_token"])
    try:
        merges = merges_of({piece.text: i for i, piece in enumerate(source.pieces)})
        inner = tokenizers.Tokenizer(models.BPE(ids, merges, unk_token=unknown, fuse_unk=True))
    except Exception as fault:  # the library raises nothing narrower
        raise CheckpointError(f"{file}: {fault}") from None
    if source.charsmap:
        inner.normalizer = normalizer(source, ONE_SPACE, instead=[])
    metaspace(inner)
    add_tokens(inner, folder, settings, [*marked(source), *special(languages.NLLB)])
    return inner


def _mbart(
    folder: Path, settings: Settings, source: SentencePieceModel, codes: list[str]
) -> tokenizers.Tokenizer:
    mask = content(settings["mask_token"]) or "<mask>"
    vocabulary = _fairseq(source, settings, [*codes, mask])
    inner = unigram(folder / _FILE, vocabulary, _UNKNOWN_ID)
    add_tokens(inner, folder, settings, [*marked(source), *special(codes)])
    return inner


def _fairseq(source: SentencePieceModel, settings: Settings, last: list[str]) -> Vocabulary:
    """Fairseq's four tokens in place of the file's first three, then the file's, then the `last`."""
    first = [content(settings[name]) or "" for name in ("bos_token", "pad_token", "eos_token", "unk_token")]
    return [*((text, 0.0) for text in first), *scores(source)[3:], *((text, 0.0) for text in last)]
