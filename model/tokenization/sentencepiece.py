"""SentencePiece files whose pieces keep the file's order: T5 and mT5, Pegasus, DeBERTa-v2.

Where a family's published fast tokenizer departs from SentencePiece itself, the fast tokenizer is followed.
"""

from pathlib import Path

import tokenizers
from tokenizers import Regex, decoders, normalizers, pre_tokenizers

from model.tokenization.pieces import (
    ONE_SPACE,
    marked,
    metaspace,
    normalizer,
    scores,
    set_template,
    special,
    unigram,
)
from model.tokenization.sentencepiece_model import SentencePieceModel
from model.tokenization.special_tokens import Settings, add_tokens, content
from model.tokenization.wordpiece import BERT_TOKENS

T5_TOKENS = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
PEGASUS_TOKENS = {**T5_TOKENS, "mask_token": "<mask_2>", "mask_token_sent": "<mask_1>"}
DEBERTA_TOKENS = {"bos_token": "[CLS]", "eos_token": "[SEP]", **BERT_TOKENS}


def t5(folder: Path, settings: Settings) -> tokenizers.Tokenizer:
    """`A </s> B </s>`. The sentinels come last in reverse: `<extra_id_0>` is the highest id."""
    source = SentencePieceModel.read(folder / "spiece.model")
    num_extra = int(settings.get("extra_ids", 100))
    sentinels = [f"<extra_id_{i}>" for i in reversed(range(num_extra))]
    vocabulary = [*scores(source), *((token, 0.0) for token in sentinels)]
    inner = unigram(folder / "spiece.model", vocabulary, source.unk_id)
    if source.charsmap:
        inner.normalizer = normalizers.Precompiled(source.charsmap)
    metaspace(inner, splits_whitespace=True)
    add_tokens(inner, folder, settings, [*marked(source), *special(sentinels)])
    set_template(inner, folder, settings, single="$A eos", pair="$A eos $B eos")
    return inner


def pegasus(folder: Path, settings: Settings) -> tokenizers.Tokenizer:
    """`A B </s>`. Pad and end, the two masks and tokens for pre-training only stand before the file's pieces."""
    source = SentencePieceModel.read(folder / "spiece.model")
    fillers = [f"<unk_{i}>" for i in range(2, int(settings.get("offset", 103)))]
    first = [settings[name] for name in ("pad_token", "eos_token", "mask_token_sent", "mask_token")]
    names = [text for text in map(content, first) if text is not None]
    vocabulary = [(name, 0.0) for name in names]
    vocabulary += [(name, -100.0) for name in fillers] + scores(source)[2:]
    unknown = content(settings["unk_token"])
    unk_id = next((i for i, (text, _) in enumerate(vocabulary) if text == unknown), 0)
    inner = unigram(folder / "spiece.model", vocabulary, unk_id)
    inner.normalizer = normalizer(source, ONE_SPACE, instead=[normalizers.Replace("\n", " "), ONE_SPACE])
    metaspace(inner)
    add_tokens(inner, folder, settings, [*marked(source), *special([*names, *fillers])])
    set_template(inner, folder, settings, single="$A eos", pair="$A $B eos")
    return inner


def deberta_v2(folder: Path, settings: Settings) -> tokenizers.Tokenizer:
    """`[CLS] A [SEP] B [SEP]`; the file's own table of replacements is not used."""
    source = SentencePieceModel.read(folder / "spm.model")
    inner = unigram(folder / "spm.model", scores(source), source.unk_id)
    steps: list[normalizers.Normalizer] = []
    if settings.get("do_lower_case", False):
        steps.append(normalizers.Lowercase())
    steps += [
        normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "),
        normalizers.NFC(),
        normalizers.Strip(left=False, right=True),
    ]
    inner.normalizer = normalizers.Sequence(steps)
    scheme = "always" if settings.get("add_prefix_space", True) else "first"
    cuts: list[pre_tokenizers.PreTokenizer] = [pre_tokenizers.Metaspace(prepend_scheme=scheme)]
    if settings.get("split_by_punct", False):
        cuts.insert(0, pre_tokenizers.Punctuation(behavior="isolated"))
    inner.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    inner.decoder = decoders.Metaspace(prepend_scheme=scheme)
    add_tokens(inner, folder, settings, marked(source))
    set_template(inner, folder, settings, single="cls:0 $A:0 sep:0", pair="cls:0 $A:0 sep:0 $B:1 sep:1")
    return inner
