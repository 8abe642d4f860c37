"""Tiny checkpoints out of a seed, the same wherever they are built: weights, tokenizers, folders.

Both the recorder, in its own environment, and the tests run this file, so it knows neither `transformers` nor
the Transformer here. A checkpoint is told by a `Described`; its weights are whole numbers scaled once, which no
version of a library rounds differently.
"""

import hashlib
import json
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

Weights = dict[str, npt.NDArray[np.float32]]

WORDS: list[str] = re.findall(
    r"\S+",
    "the of and to in is was that it for on with as by at from river water engine house city light small long time "
    "people year day work world life great old new first last who where when what built named",
)
CHARACTERS = (
    "".join(chr(i) for i in range(33, 127))
    + "äöüßéèçñåøłžščåÄÖÜ"
    + "абвгдежзиклмнопрстухшыя"
    + "αβγδελμοπρσ"
    + "日本語東京水川大人中國"
    + "😀🚀🌍…„“–"
)
_STEPS = 2**11
_SCALE = 0.3
_TABLE = re.compile("embed|shared|wte|wpe|lm_head|logits_bias|relative_attention_bias")
_GPT2_WORDS = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_QWEN_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s+(?!\S)|\s+"
)


class Described(TypedDict):
    """A checkpoint as it is recorded: what its folder is built from, and what the weights must come to."""

    config: dict[str, Any]
    tokenizer: str
    seed: int
    scale: float
    tensors: dict[str, list[int]]
    weights: str


def make_weights(shapes: Mapping[str, list[int]], seed: int, scale: float) -> Weights:
    """By published name; `scale` is that of the layers' matrices, the larger the less a text repeats itself.

    Norms are about one, everything else about nought. No number depends on another tensor.
    """
    weights = {}
    for name, shape in shapes.items():
        # The one generator whose numbers numpy promises never to change.
        source = np.random.RandomState(zlib.crc32(f"{seed} {name}".encode()))
        values = source.randint(-_STEPS, _STEPS + 1, shape).astype(np.float32) / np.float32(_STEPS)
        is_norm = len(shape) == 1 and name.endswith("weight")
        width = _SCALE if len(shape) == 1 or _TABLE.search(name) else scale
        weights[name] = (values * np.float32(width) + np.float32(is_norm)).astype(np.float32)
    return weights


def checksum(weights: Weights) -> str:
    """Of names, shapes and every bit."""
    digest = hashlib.sha256()
    for name, value in sorted(weights.items()):
        digest.update(f"{name} {value.shape}".encode() + value.astype("<f4").tobytes())
    return digest.hexdigest()


def write_folder(described: Described, folder: Path, pooling: Mapping[str, Any] | None = None) -> Weights:
    """A checkpoint folder as it is published; `pooling` adds the modules of sentence-transformers."""
    folder.mkdir(parents=True)
    weights = make_weights(described["tensors"], described["seed"], described["scale"])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    _write_json(folder / "config.json", described["config"])
    tokenizer, settings = make_tokenizer(described["tokenizer"])
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_json(folder / "tokenizer_config.json", settings)
    if pooling is not None:
        _write_pooling(folder, pooling["mode"], pooling["normalize"], described["config"]["hidden_size"])
    return weights


def make_tokenizer(kind: str) -> tuple[Tokenizer, dict[str, Any]]:
    """One of the kinds that published checkpoints have, and its `tokenizer_config.json`."""
    tokenizer, tokens = _KINDS[kind]()
    names = ["input_ids", "attention_mask"]
    if kind in ("wordpiece", "deberta"):
        names.insert(1, "token_type_ids")
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "model_input_names": names, **tokens}
    return tokenizer, settings | {"clean_up_tokenization_spaces": False}


def _write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def _write_pooling(folder: Path, mode: str, is_normalized: bool, size: int) -> None:
    (folder / "1_Pooling").mkdir()
    modes = {"cls": "cls_token", "mean": "mean_tokens", "last": "lasttoken"}
    chosen = {f"pooling_mode_{theirs}": ours == mode for ours, theirs in modes.items()}
    _write_json(folder / "1_Pooling" / "config.json", {"word_embedding_dimension": size, **chosen})
    kinds = ["Transformer", "Pooling", *(["Normalize"] if is_normalized else [])]
    modules = [
        {
            "idx": i,
            "name": str(i),
            "path": f"{i}_{kind}" if i else "",
            "type": f"sentence_transformers.models.{kind}",
        }
        for i, kind in enumerate(kinds)
    ]
    _write_json(folder / "modules.json", modules)
    _write_json(folder / "sentence_bert_config.json", {"max_seq_length": 400, "do_lower_case": False})


def _wordpiece() -> tuple[Tokenizer, dict[str, Any]]:
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*CHARACTERS, *WORDS, *(f"##{c}" for c in CHARACTERS), "##ing", "##ed", "##er"]
    tokenizer = Tokenizer(models.WordPiece(_numbered([*special, *pieces]), unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    return _bert_template(tokenizer, special)


def _bert_template(tokenizer: Tokenizer, special: list[str]) -> tuple[Tokenizer, dict[str, Any]]:
    tokenizer.add_special_tokens(special)
    ends = [(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return tokenizer, names | {"mask_token": "[MASK]"}


def _byte_level(special: list[str], words: str | None = None) -> Tokenizer:
    """Merges that build each word from its left, with and without the blank before it."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pieces, merges = _merges([form for word in WORDS for form in (f"Ġ{word}", word)])
    tokenizer = Tokenizer(models.BPE(_numbered([*special, *alphabet, *pieces]), merges))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words is None)
    if words is not None:
        split = pre_tokenizers.Split(Regex(words), behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    else:
        tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _roberta() -> tuple[Tokenizer, dict[str, Any]]:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = _byte_level(special)
    tokenizer.add_special_tokens([*special[:4], AddedToken("<mask>", lstrip=True, special=True)])
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    mask = {"content": "<mask>", "lstrip": True, "special": True, "__type": "AddedToken"}
    mask |= {"normalized": False, "rstrip": False, "single_word": False}
    return tokenizer, names | {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": mask}


def _gpt2() -> tuple[Tokenizer, dict[str, Any]]:
    tokenizer = _byte_level(["<|endoftext|>"], _GPT2_WORDS)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    return tokenizer, {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}


def _qwen() -> tuple[Tokenizer, dict[str, Any]]:
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = _byte_level(special, _QWEN_WORDS)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_special_tokens(special)
    return tokenizer, {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}


def _llama() -> tuple[Tokenizer, dict[str, Any]]:
    """SentencePiece's BPE with bytes for what it lacks."""
    special = ["<unk>", "<s>", "</s>"]
    pieces, merges = _merges([form for word in WORDS for form in (f"▁{word}", word)])
    bytes_ = [f"<0x{i:02X}>" for i in range(256)]
    vocabulary = _numbered([*special, *bytes_, "▁", *CHARACTERS, *pieces])
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    return tokenizer, {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "</s>",
    }


def _unigram(special: list[str], behind: list[str], unknown: str) -> Tokenizer:
    pieces = dict.fromkeys(["▁", *CHARACTERS, *(f"▁{word}" for word in WORDS), "ing", "ed", "er", "en"])
    scored = [(piece, -1.0 - 8.0 / len(piece) - i / 1024) for i, piece in enumerate(pieces)]
    vocabulary = [*((token, 0.0) for token in special), *scored, *((token, 0.0) for token in behind)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, special.index(unknown)))
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([*special, *behind])
    return tokenizer


def _t5() -> tuple[Tokenizer, dict[str, Any]]:
    tokenizer = _unigram(["<pad>", "</s>", "<unk>"], [], "<unk>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return tokenizer, {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


def _marian() -> tuple[Tokenizer, dict[str, Any]]:
    """Padding is the last token, as OPUS-MT has it."""
    tokenizer = _unigram(["</s>", "<unk>"], ["<pad>"], "<unk>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A $B </s>", special_tokens=[("</s>", 0)]
    )
    return tokenizer, {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


def _deberta() -> tuple[Tokenizer, dict[str, Any]]:
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]"]
    return _bert_template(_unigram(special, ["[MASK]"], "[UNK]"), [*special, "[MASK]"])


def _merges(words: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """The pieces that words grow through, from the left, and the pairs that they are merged from."""
    pairs: dict[str, tuple[str, str]] = {}
    for word in words:
        for end in range(2, len(word) + 1):
            pairs.setdefault(word[:end], (word[: end - 1], word[end - 1]))
    return list(pairs), list(pairs.values())


def _numbered(tokens: list[str]) -> dict[str, int]:
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}


_KINDS = {
    "wordpiece": _wordpiece,
    "wordpiece-untyped": _wordpiece,  # DistilBERT has no types of tokens
    "roberta": _roberta,
    "gpt2": _gpt2,
    "qwen": _qwen,
    "llama": _llama,
    "t5": _t5,
    "marian": _marian,
    "deberta": _deberta,
}
