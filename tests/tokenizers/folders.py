"""Tiny checkpoints' tokenizer files, one folder for each published layout without `tokenizer.json`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sentencepiece

from model.tokenization import languages
from tests.tokenizers.texts import write_byte_level, write_json, write_sentencepiece, write_wordpiece

_T5_IDS: dict[str, Any] = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
_FAIRSEQ_FILE = "sentencepiece.bpe.model"


def token(content: str, **flags: bool) -> dict[str, Any]:
    """An entry of `added_tokens_decoder`."""
    plain = dict.fromkeys(("lstrip", "rstrip", "single_word", "normalized"), False)
    return {"content": content, "special": True} | plain | flags


def config(folder: Path, tokenizer_class: str, **settings: Any) -> None:
    write_json(folder / "tokenizer_config.json", {"tokenizer_class": tokenizer_class, **settings})


def pieces(file: Path) -> list[str]:
    model = sentencepiece.SentencePieceProcessor(model_file=str(file))
    return [model.id_to_piece(i) for i in range(model.get_piece_size())]


def bert(folder: Path) -> None:
    write_wordpiece(folder, lowercase=True)
    config(folder, "BertTokenizer")


def bert_cased(folder: Path) -> None:
    write_wordpiece(folder, lowercase=False)
    config(folder, "BertTokenizer", do_lower_case=False, strip_accents=True, tokenize_chinese_chars=False)


def distilbert(folder: Path) -> None:
    write_wordpiece(folder, lowercase=True)
    config(folder, "DistilBertTokenizer", do_lower_case=True, strip_accents=False)


def gpt2(folder: Path) -> None:
    write_byte_level(folder, ["<|endoftext|>"])
    config(folder, "GPT2Tokenizer", model_max_length=1024)


def gpt2_marked(folder: Path) -> None:
    write_byte_level(folder, ["<|endoftext|>"])
    config(folder, "GPT2Tokenizer", add_prefix_space=True, add_bos_token=True)


def roberta(folder: Path) -> None:
    write_byte_level(folder, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    config(folder, "RobertaTokenizer", added_tokens_decoder={"4": token("<mask>", lstrip=True)})


def bart(folder: Path) -> None:
    """The mask's flags in the older file."""
    write_byte_level(folder, ["<s>", "<pad>", "</s>", "<unk>", "<mask>"])
    config(folder, "BartTokenizer", add_prefix_space=True)
    write_json(folder / "special_tokens_map.json", {"mask_token": token("<mask>", lstrip=True)})


def qwen2(folder: Path) -> None:
    write_byte_level(folder, [])
    size = len(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))
    added = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    decoder = {str(size + i): token(text) for i, text in enumerate(added)}
    config(folder, "Qwen2Tokenizer", bos_token=None, eos_token="<|im_end|>", added_tokens_decoder=decoder)


def qwen2_old(folder: Path) -> None:
    """Ids in `added_tokens.json`, one of them of a token that is not special."""
    write_byte_level(folder, [])
    size = len(json.loads((folder / "vocab.json").read_text(encoding="utf-8")))
    write_json(folder / "added_tokens.json", {"<|endoftext|>": size, "<tool>": size + 1})
    config(folder, "Qwen2Tokenizer")


def t5(folder: Path) -> None:
    write_sentencepiece(folder / "spiece.model", **_T5_IDS)
    config(folder, "T5Tokenizer")


def t5_plain(folder: Path) -> None:
    """No table of replacements, pieces marked by the trainer, fewer sentinels."""
    marked: dict[str, Any] = {"user_defined_symbols": ["<sep>"], "control_symbols": ["<ctl>"]}
    write_sentencepiece(folder / "spiece.model", normalization_rule_name="identity", **_T5_IDS, **marked)
    config(folder, "T5Tokenizer", extra_ids=7)


def mt5(folder: Path) -> None:
    write_sentencepiece(folder / "spiece.model", normalization_rule_name="nfkc", **_T5_IDS)
    config(folder, "T5Tokenizer", extra_ids=0, additional_special_tokens=None)


def pegasus(folder: Path) -> None:
    write_sentencepiece(folder / "spiece.model", **_T5_IDS)
    config(folder, "PegasusTokenizer")


def deberta(folder: Path) -> None:
    ids: dict[str, Any] = {"pad_id": 0, "bos_id": 1, "eos_id": 2, "unk_id": 3}
    names = {"pad_piece": "[PAD]", "bos_piece": "[CLS]", "eos_piece": "[SEP]", "unk_piece": "[UNK]"}
    write_sentencepiece(folder / "spm.model", **ids, **names)
    config(folder, "DebertaV2Tokenizer", do_lower_case=False)


def deberta_split(folder: Path) -> None:
    deberta(folder)
    config(folder, "DebertaV2Tokenizer", do_lower_case=True, split_by_punct=True)


def xlm_roberta(folder: Path) -> None:
    write_sentencepiece(folder / _FAIRSEQ_FILE)
    mask = {"__type": "AddedToken", **token("<mask>", lstrip=True)}
    config(folder, "XLMRobertaTokenizer", mask_token=mask)


def mbart(folder: Path) -> None:
    write_sentencepiece(folder / _FAIRSEQ_FILE)
    config(folder, "MBartTokenizer", src_lang="ro_RO")


def mbart50(folder: Path) -> None:
    write_sentencepiece(folder / _FAIRSEQ_FILE)
    config(folder, "MBart50Tokenizer", src_lang="de_DE")


def nllb(folder: Path) -> None:
    write_sentencepiece(folder / _FAIRSEQ_FILE, "bpe")
    first = len(pieces(folder / _FAIRSEQ_FILE)) + 1
    added = {str(first + i): token(code) for i, code in enumerate(languages.NLLB)}
    added[str(first + len(languages.NLLB))] = token("<mask>", lstrip=True, normalized=True)
    config(
        folder,
        "NllbTokenizer",
        additional_special_tokens=languages.NLLB,
        mask_token="<mask>",
        added_tokens_decoder=added,
    )


def nllb_legacy(folder: Path) -> None:
    nllb(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    write_json(
        folder / "tokenizer_config.json", settings | {"legacy_behaviour": True, "src_lang": "fra_Latn"}
    )


FAST: dict[str, tuple[str, Callable[[Path], None]]] = {
    "bert": ("BertTokenizer", bert),
    "bert-cased": ("BertTokenizer", bert_cased),
    "distilbert": ("DistilBertTokenizer", distilbert),
    "gpt2": ("GPT2Tokenizer", gpt2),
    "gpt2-marked": ("GPT2Tokenizer", gpt2_marked),
    "roberta": ("RobertaTokenizer", roberta),
    "bart": ("BartTokenizer", bart),
    "qwen2": ("Qwen2Tokenizer", qwen2),
    "qwen2-old": ("Qwen2Tokenizer", qwen2_old),
    "t5": ("T5Tokenizer", t5),
    "t5-plain": ("T5Tokenizer", t5_plain),
    "mt5": ("T5Tokenizer", mt5),
    "pegasus": ("PegasusTokenizer", pegasus),
    "deberta-v2": ("DebertaV2Tokenizer", deberta),
    "deberta-v2-split": ("DebertaV2Tokenizer", deberta_split),
    "xlm-roberta": ("XLMRobertaTokenizer", xlm_roberta),
    "mbart": ("MBartTokenizer", mbart),
    "mbart50": ("MBart50Tokenizer", mbart50),
    "nllb": ("NllbTokenizer", nllb),
    "nllb-legacy": ("NllbTokenizer", nllb_legacy),
}
"""Name → the class in `transformers`, and what writes the folder."""


def marian(folder: Path, *, rule: str = "nmt_nfkc", separate: bool = False) -> None:
    """A joint vocabulary that lacks some of the source's pieces and has some that only the target has."""
    ids: dict[str, Any] = {"pad_id": -1, "bos_id": -1, "eos_id": 0, "unk_id": 1}
    for name in ("source.spm", "target.spm"):
        write_sentencepiece(folder / name, normalization_rule_name=rule, **ids)
    known = [piece for i, piece in enumerate(pieces(folder / "source.spm")[2:]) if i % 9]
    order = ["</s>", "<unk>", ">>fra<<", ">>deu<<", *reversed(known), "▁Ziel", "wort", "<pad>"]
    write_json(folder / "vocab.json", {text: i for i, text in enumerate(order)})
    if separate:
        write_json(
            folder / "target_vocab.json",
            {text: i for i, text in enumerate(["</s>", "<unk>", *known, "<pad>"])},
        )
    config(folder, "MarianTokenizer", source_lang="en", target_lang="fra", separate_vocabs=separate)


def m2m100(folder: Path, kind: str = "bpe") -> None:
    write_sentencepiece(folder / _FAIRSEQ_FILE, kind)
    known = [piece for i, piece in enumerate(pieces(folder / _FAIRSEQ_FILE)[3:]) if i % 9]
    order = ["<s>", "<pad>", "</s>", "<unk>", *known]
    write_json(folder / "vocab.json", {text: i for i, text in enumerate(order)})
    config(folder, "M2M100Tokenizer", src_lang="de")
