"""Seeded text of many kinds, and tiny vocabularies learnt from it."""

import io
import json
import random
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

_TEXT = (
    "the cat sat on a mat while rain fell in Paris and nobody's dog didn't bark at 1234 strange 56.78 figures "
    "Éclair naïve façade Straße Übung señor coração čeština Ångström İstanbul "
    "Москва говорит привет Ελλάδα γλώσσα مرحبا بالعالم العربية שלום नमस्ते भारत ไทย 한국어 안녕 "
    "你好 世界 東京 日本語 テスト ひらがな 😀 👩‍👩‍👧‍👦 🇩🇪 ❤️ ﬁnal ①② Ｆｕｌｌ ½ … — “quoted” it's we'll I'M "
    "e-mail@example.org https://a.b/c?d=e#f foo_bar x=y+z; {braces} [list] <tag> $9.99 50% C++ ... ?! ▁ ~~ \\n"
)
WORDS = _TEXT.split()
ODD = (
    "\t",
    "\n",
    "  ",
    "   ",
    "\u00a0",
    "\u200b",
    "\u3000",
    "\x00",
    "\x07",
    "\ufeff",
    "e\u0301",
    "\ufffd",
    "\r\n",
    "\u2028",
)


def lines(count: int, seed: int = 7) -> list[str]:
    """Words, odd characters, long runs and random code points; some lines empty or blank."""
    rng = random.Random(seed)
    made = [
        "",
        " ",
        "   ",
        "\n",
        "a",
        " leading",
        "trailing ",
        "a" * 300,
        "ab" * 200,
        "é" * 50,
        "1" * 60,
        "…" * 9,
    ]
    while len(made) < count:
        parts = []
        for _ in range(rng.randint(1, 14)):
            kind = rng.random()
            if kind < 0.80:
                word = rng.choice(WORDS)
                parts.append(rng.choice((word, word, word.upper(), word.capitalize())))
            elif kind < 0.88:
                parts.append(rng.choice(ODD))
            elif kind < 0.94:
                parts.append(str(rng.randint(0, 10**9)))
            else:
                parts.append("".join(map(_character, [rng] * 4)))
        made.append(rng.choice((" ", " ", " ", "", "  ")).join(parts))
    return made


def _character(rng: random.Random) -> str:
    while True:
        code = rng.choice((rng.randint(32, 0x2FF), rng.randint(0x300, 0xD7FF), rng.randint(0x1F300, 0x1FAFF)))
        if not 0xD800 <= code < 0xE000:
            return chr(code)


def write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")


def write_byte_level(folder: Path, specials: list[str]) -> None:
    """`vocab.json` and `merges.txt`, the specials first."""
    inner = tokenizers.Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=specials, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(lines(800, seed=1), trainer)
    inner.model.save(str(folder))


def write_wordpiece(folder: Path, lowercase: bool) -> None:
    """`vocab.txt` as BERT's: unused entries, special tokens, characters, words and their ends."""
    text = " ".join(WORDS)
    text = text.lower() if lowercase else text
    words = [word for word in text.split() if len(word) > 2]
    entries = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(set(text) - {" "})]
    entries += (
        words
        + [word[:2] for word in words]
        + [f"##{word[2:]}" for word in words]
        + [f"##{c}" for c in "abcdes1"]
    )
    unique = list(dict.fromkeys(entries))
    (folder / "vocab.txt").write_text("\n".join(unique) + "\n", encoding="utf-8")


def write_sentencepiece(file: Path, kind: str = "unigram", **options: Any) -> None:
    """A model learnt by SentencePiece itself, with its table of replacements unless `options` say otherwise."""
    made = io.BytesIO()
    settings: dict[str, Any] = {
        "vocab_size": 1500,
        "normalization_rule_name": "nmt_nfkc",
        "character_coverage": 0.98,
        **options,
    }
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines(1200, seed=2)),
        model_writer=made,
        model_type=kind,
        minloglevel=2,
        num_threads=1,
        hard_vocab_limit=False,
        **settings,
    )
    file.write_bytes(made.getvalue())
