"""WordPiece from `vocab.txt`: BERT and what is tokenized like it."""

from pathlib import Path

import tokenizers
from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, processors

from model.config import CheckpointError
from model.tokenization.special_tokens import Settings, add_tokens, content, token_id

BERT_TOKENS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}


def bert(folder: Path, settings: Settings) -> tokenizers.Tokenizer:
    """`[CLS] A [SEP] B [SEP]`; the text is cleaned, and lower-cased unless the settings say no."""
    file = folder / "vocab.txt"
    if not file.is_file():
        raise CheckpointError(f"{file} is missing, and so is tokenizer.json")
    unknown = content(settings["unk_token"]) or "[UNK]"
    try:
        vocabulary = models.WordPiece.read_file(str(file))
        inner = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token=unknown))
    except Exception as fault:  # the library raises nothing narrower
        raise CheckpointError(f"{file}: {fault}") from None
    if unknown not in vocabulary:  # it would fail at the first word it does not know
        raise CheckpointError(f"{file}: no {unknown!r} in it")
    inner.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=bool(settings.get("tokenize_chinese_chars", True)),
        strip_accents=settings.get("strip_accents"),
        lowercase=bool(settings.get("do_lower_case", True)),
    )
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece(prefix="##")
    never_split = [word for word in settings.get("never_split") or () if word in vocabulary]
    add_tokens(
        inner,
        folder,
        settings,
        [AddedToken(word, single_word=True, normalized=False, special=False) for word in never_split],
    )
    cls, cls_id = token_id(inner, folder, settings, "cls_token")
    sep, sep_id = token_id(inner, folder, settings, "sep_token")
    inner.post_processor = processors.TemplateProcessing(
        single=[f"{cls}:0", "$A:0", f"{sep}:0"],
        pair=[f"{cls}:0", "$A:0", f"{sep}:0", "$B:1", f"{sep}:1"],
        special_tokens=[(cls, cls_id), (sep, sep_id)],
    )
    return inner
