"""SentencePiece files whose pieces are numbered by a `vocab.json`: Marian and M2M100.

These are published without a fast tokenizer, so text is read as SentencePiece itself reads it: a reader cuts it into
the file's pieces, and a list of ids leads from a piece to its published id.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tokenizers
from tokenizers import AddedToken, Regex, decoders, models, normalizers

from model.config import CheckpointError
from model.families import read_json
from model.tokenization import languages
from model.tokenization.pieces import merges_of, set_template
from model.tokenization.sentencepiece_model import CONTROL, UNKNOWN, SentencePieceModel
from model.tokenization.special_tokens import NAMES, Settings, added_token, content, extra, published_ids

MARIAN_TOKENS = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
M2M100_TOKENS = {"bos_token": "<s>", **MARIAN_TOKENS, "sep_token": "</s>"}


@dataclass(frozen=True)
class Mapped:
    """`ids[i]` is the published id of the reader's token `i`; the writer knows published ids only."""

    reader: tokenizers.Tokenizer
    ids: list[int]
    writer: tokenizers.Tokenizer


def marian(folder: Path, settings: Settings) -> Mapped:
    """`A B </s>`. The source's pieces are read; the answer may have another vocabulary, `target_vocab.json`."""
    vocabulary = _read_vocabulary(folder / "vocab.json")
    written = vocabulary
    if settings.get("separate_vocabs", False):
        written = _read_vocabulary(folder / "target_vocab.json")
    mapped = _map(folder, folder / "source.spm", vocabulary, written, settings)
    set_template(mapped.reader, folder, settings, single="$A eos", pair="$A $B eos")
    return mapped


def m2m100(folder: Path, settings: Settings) -> Mapped:
    """Without a template, which depends on the language; the languages' ids follow those of `vocab.json`."""
    vocabulary = _read_vocabulary(folder / "vocab.json")
    codes = languages.WMT21 if settings.get("language_codes") == "wmt21" else languages.M2M100
    tokens = {f"__{code}__": len(vocabulary) + i for i, code in enumerate(codes)}
    known = {**vocabulary, **tokens}
    return _map(folder, folder / "sentencepiece.bpe.model", known, known, settings, tuple(tokens))


def _map(
    folder: Path,
    file: Path,
    vocabulary: Mapping[str, int],
    written: Mapping[str, int],
    settings: Settings,
    more: tuple[str, ...] = (),
) -> Mapped:
    source = SentencePieceModel.read(file)
    unknown = content(settings["unk_token"]) or "<unk>"
    if unknown not in vocabulary:
        raise CheckpointError(f"{folder / 'vocab.json'}: no {unknown!r} in it")
    unk_id = vocabulary[unknown]
    hidden = (CONTROL, UNKNOWN)
    ids = [unk_id if piece.type in hidden else vocabulary.get(piece.text, unk_id) for piece in source.pieces]
    reader = _reader(file, source)
    published = {token.content: number for number, token in published_ids(folder, settings).items()}
    tokens = _special_tokens(folder, settings, more)
    for token in tokens:
        # what neither vocab.json nor the settings number is not a token of the checkpoint
        if token.content in vocabulary or token.content in published:
            reader.add_tokens([token])
            ids.append(vocabulary.get(token.content, published.get(token.content, unk_id)))
    try:
        writer = tokenizers.Tokenizer(models.WordLevel(dict(published) | dict(written), unk_token=unknown))
    except Exception as fault:  # the library raises nothing narrower
        raise CheckpointError(f"{folder / 'vocab.json'}: {fault}") from None
    writer.decoder = decoders.Metaspace()
    writer.add_tokens([token for token in tokens if writer.token_to_id(token.content) is not None])
    return Mapped(reader, ids, writer)


def _reader(file: Path, source: SentencePieceModel) -> tokenizers.Tokenizer:
    """Cuts like SentencePiece: the whole text at once, and never into a control piece."""
    # No text holds a blank once it is normalized, so a name that begins with one is never found in a text.
    names = [f" {piece.text}" if piece.type in (CONTROL, UNKNOWN) else piece.text for piece in source.pieces]
    model: models.Unigram | models.BPE
    try:
        if source.kind == "unigram":
            scores = [piece.score for piece in source.pieces]
            model = models.Unigram(list(zip(names, scores, strict=True)), source.unk_id, byte_fallback=False)
        else:
            vocabulary = {name: i for i, name in enumerate(names)}
            unknown = names[source.unk_id]
            model = models.BPE(vocabulary, merges_of(vocabulary), unk_token=unknown, fuse_unk=True)
    except Exception as fault:  # the library raises nothing narrower
        raise CheckpointError(f"{file}: {fault}") from None
    reader = tokenizers.Tokenizer(model)
    steps: list[normalizers.Normalizer] = []
    if source.charsmap:
        steps.append(normalizers.Precompiled(source.charsmap))
    if source.remove_extra_whitespaces:
        steps.append(normalizers.Replace(Regex(r"\A +| +\z"), ""))
        steps.append(normalizers.Replace(Regex(" {2,}"), " "))
    if source.add_dummy_prefix:
        steps.append(normalizers.Prepend("▁"))
    steps.append(normalizers.Replace(" ", "▁"))
    if source.remove_extra_whitespaces:  # once more, since a text may hold the mark itself
        steps.append(normalizers.Replace(Regex(r"▁+\z"), ""))
    reader.normalizer = normalizers.Sequence(steps)
    return reader


def _special_tokens(folder: Path, settings: Settings, more: tuple[str, ...]) -> list[AddedToken]:
    """Each once: those published by id, the named ones, the others that the settings list, and `more`."""
    values = [settings[name] for name in NAMES if settings.get(name) is not None]
    found = {token.content: token for token in published_ids(folder, settings).values()}
    try:
        for value in [*values, *extra(settings), *more]:
            token = added_token(value, special=True)
            found.setdefault(token.content, token)
    except TypeError as fault:
        raise CheckpointError(f"{folder / 'tokenizer_config.json'}: {fault}") from None
    return list(found.values())


def _read_vocabulary(file: Path) -> dict[str, int]:
    if not file.is_file():
        raise CheckpointError(f"{file} is missing, and so is tokenizer.json")
    vocabulary = read_json(file)
    for token, number in vocabulary.items():
        if not isinstance(number, int) or number < 0:
            raise CheckpointError(f"{file}: the id of {token!r} is {number!r}")
    return vocabulary
