"""Trains tokenizers and writes their Hugging Face files. One recipe each for the translator and the writer."""

import json
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing

PAD, EOS, UNK = "<pad>", "</s>", "<unk>"
END_OF_TEXT = "<|endoftext|>"
NUM_SENTINELS = 32
_BYTES = [f"<0x{value:02X}>" for value in range(256)]


def train_text_to_text(
    texts: Iterable[str], vocab_size: int, languages: tuple[str, ...], min_characters: int = 4
) -> Tokenizer:
    """A joint BPE vocabulary for several languages with byte fallback.

    Ids: 0 pad, 1 end, 2 unknown, then one token per target language, the span sentinels, the 256 bytes,
    characters, merges. Each Han character is a piece of its own, so merges are spent on the alphabets; a
    character seen fewer than `min_characters` times is spelled in bytes.
    """
    specials = [PAD, EOS, UNK, *(f"<2{language}>" for language in languages)]
    specials += [f"<extra_id_{index}>" for index in range(NUM_SENTINELS)]
    normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " ")])
    words = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="always", split=True),
            pre_tokenizers.Split(Regex(r"\p{Han}"), behavior="isolated"),
            pre_tokenizers.Split(Regex(r"\d"), behavior="isolated"),
            pre_tokenizers.Split(Regex(r"[\p{P}\p{S}&&[^▁]]"), behavior="isolated"),
        ]
    )
    tokenizer = Tokenizer(models.BPE(unk_token=UNK, byte_fallback=True))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = words
    corpus = list(texts)
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[*specials, *_BYTES],
        limit_alphabet=_num_characters(corpus, min_characters),
        show_progress=False,
    )
    tokenizer.train_from_iterator(corpus, trainer)
    trained = json.loads(tokenizer.to_str())
    # The trainer registers the byte pieces as added tokens; as such they would match literal text.
    trained["added_tokens"] = [
        token for token in trained["added_tokens"] if token["content"] not in set(_BYTES)
    ]
    tokenizer = Tokenizer.from_str(json.dumps(trained))
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.ByteFallback(),
            decoders.Metaspace(replacement="▁", prepend_scheme="always", split=True),
        ]
    )
    tokenizer.post_processor = TemplateProcessing(
        single=f"$A {EOS}", pair=f"$A {EOS} $B {EOS}", special_tokens=[(EOS, 1)]
    )
    return tokenizer


def _num_characters(corpus: list[str], min_characters: int) -> int:
    counts: dict[str, int] = {}
    for text in corpus:
        for character in text:
            counts[character] = counts.get(character, 0) + 1
    return sum(count >= min_characters for count in counts.values())


def train_byte_level(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE vocabulary for a decoder. Ids: 0 `<|endoftext|>` (start, end and padding), 1 the
    corpus' `<unk>` mark, which is read and never a target."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, UNK],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = TemplateProcessing(
        single=f"{END_OF_TEXT} $A", pair=f"{END_OF_TEXT} $A $B", special_tokens=[(END_OF_TEXT, 0)]
    )
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, *, is_decoder: bool, max_length: int) -> None:
    """Write `tokenizer.json`, `tokenizer_config.json` and `special_tokens_map.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    if is_decoder:
        names = {
            "bos_token": END_OF_TEXT,
            "eos_token": END_OF_TEXT,
            "pad_token": END_OF_TEXT,
            "unk_token": UNK,
        }
    else:
        names = {"eos_token": EOS, "pad_token": PAD, "unk_token": UNK}
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        **names,
    }
    _write_json(folder / "tokenizer_config.json", config)
    _write_json(folder / "special_tokens_map.json", names)


def added_tokens(tokenizer: Tokenizer) -> dict[int, AddedToken]:
    """The special tokens by id."""
    return dict(tokenizer.get_added_tokens_decoder())


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
