"""What every layout of a SentencePiece file shares: its pieces as a model, the space mark, templates by name."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers, processors

from model.config import CheckpointError
from model.tokenization.sentencepiece_model import CONTROL, USER_DEFINED, SentencePieceModel
from model.tokenization.special_tokens import Settings, token_id

Vocabulary = list[tuple[str, float]]
ONE_SPACE = normalizers.Replace(Regex(" {2,}"), " ")


def scores(source: SentencePieceModel) -> Vocabulary:
    """The pieces as the library wants them."""
    return [(piece.text, piece.score) for piece in source.pieces]


def unigram(file: Path, vocabulary: Vocabulary, unk_id: int) -> tokenizers.Tokenizer:
    """CheckpointError, with the file's name, for a vocabulary that the library refuses."""
    try:
        return tokenizers.Tokenizer(models.Unigram(vocabulary, unk_id, byte_fallback=False))
    except Exception as fault:  # the library raises nothing narrower
        raise CheckpointError(f"{file}: {fault}") from None


def merges_of(vocabulary: Mapping[str, int]) -> list[tuple[str, str]]:
    """The merges of a SentencePiece BPE, which keeps only their results: every way to cut each, in order of ids."""
    merges = []
    for whole, rank in vocabulary.items():
        cuts = ((whole[:i], whole[i:]) for i in range(1, len(whole)))
        merges += [(rank, pair) for pair in cuts if pair[0] in vocabulary and pair[1] in vocabulary]
    merges.sort(key=lambda m: (m[0], len(m[1][0]), len(m[1][1])))
    return [pair for _, pair in merges]


def normalizer(
    source: SentencePieceModel, last: normalizers.Normalizer, instead: list[normalizers.Normalizer]
) -> normalizers.Normalizer:
    """The file's table of replacements and the `last` step; the steps `instead` where it has no table."""
    if not source.charsmap:
        return normalizers.Sequence(instead)
    return normalizers.Sequence([normalizers.Precompiled(source.charsmap), last])


def metaspace(inner: tokenizers.Tokenizer, scheme: str = "always", splits_whitespace: bool = False) -> None:
    """Blanks become `▁`; where whitespace is split first, no kind of it reaches the pieces."""
    metaspace = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    inner.pre_tokenizer = (
        pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
        if splits_whitespace
        else metaspace
    )
    inner.decoder = decoders.Metaspace(prepend_scheme=scheme)


def marked(source: SentencePieceModel) -> list[AddedToken]:
    """Pieces that the file wants found whole in a text."""
    return [
        AddedToken(piece.text, normalized=False, special=piece.type == CONTROL)
        for piece in source.pieces
        if piece.type in (CONTROL, USER_DEFINED)
    ]


def special(texts: Sequence[str]) -> list[AddedToken]:
    """As special tokens, matched in raw text."""
    return [AddedToken(text, special=True) for text in texts]


def set_template(
    inner: tokenizers.Tokenizer, folder: Path, settings: Settings, single: str, pair: str
) -> None:
    """Templates name special tokens without their `_token`, as in `cls:0 $A:0`."""
    found: dict[str, tuple[str, int]] = {}

    def spell(part: str) -> str:
        name, colon, kind = part.partition(":")
        if name.startswith("$"):
            return part
        found[name] = token_id(inner, folder, settings, f"{name}_token")
        return f"{found[name][0]}{colon}{kind}"

    parts = [[spell(part) for part in template.split()] for template in (single, pair)]
    inner.post_processor = processors.TemplateProcessing(
        single=parts[0], pair=parts[1], special_tokens=sorted(set(found.values()))
    )
