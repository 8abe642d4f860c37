"""Special and added tokens, languages, and folders that cannot be used."""

import json
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from tokenizers.models import WordLevel

from model.config import CheckpointError
from model.tokenization import Tokenizer, languages
from tests.tokenizers import folders
from tests.tokenizers.texts import write_json


def test_mask_takes_the_blank_before_it_where_nothing_is_published(tmp_path: Path) -> None:
    folders.roberta(tmp_path)
    folders.config(tmp_path, "RobertaTokenizer")
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.encode("a <mask>", add_special_tokens=False).ids == [
        *tokenizer.encode("a", add_special_tokens=False).ids,
        tokenizer.mask_token_id,
    ]


def test_kind_is_told_by_the_model_type_where_no_class_is_named(tmp_path: Path) -> None:
    folders.bert(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    write_json(tmp_path / "config.json", {"model_type": "distilbert"})
    assert Tokenizer.from_folder(tmp_path).mask_token == "[MASK]"


def test_special_tokens_of_a_bare_tokenizer_json_are_those_of_its_kind(tmp_path: Path) -> None:
    folders.bert(tmp_path)
    built = Tokenizer.from_folder(tmp_path)
    built._reader.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").unlink()
    write_json(tmp_path / "config.json", {"model_type": "bert"})
    assert Tokenizer.from_folder(tmp_path).special_tokens == built.special_tokens


def test_words_never_split_stay_whole_and_keep_their_case(tmp_path: Path) -> None:
    folders.bert(tmp_path)
    with (tmp_path / "vocab.txt").open("a", encoding="utf-8") as file:
        file.write("U.S.\n")
    folders.config(tmp_path, "BertTokenizer", never_split=["U.S.", "not-in-it"])
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.token_id("U.S.") in tokenizer.encode("the U.S. dog").ids
    assert tokenizer.token_id("not-in-it") is None


def test_pegasus_has_its_masks_before_its_fillers(tmp_path: Path) -> None:
    folders.pegasus(tmp_path)
    tokenizer = Tokenizer.from_folder(tmp_path)
    first = [tokenizer.id_to_token(i) for i in range(5)]
    assert first == ["<pad>", "</s>", "<mask_1>", "<mask_2>", "<unk_2>"]
    assert tokenizer.token_id("<unk>") == 105


def test_sentinels_of_t5_come_last_in_reverse(tmp_path: Path) -> None:
    folders.t5(tmp_path)
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.token_id("<extra_id_0>") == tokenizer.vocab_size - 1
    assert tokenizer.token_id("<extra_id_99>") == tokenizer.vocab_size - 100


def test_nllb_numbers_its_languages_before_the_mask_where_no_ids_are_published(tmp_path: Path) -> None:
    folders.nllb(tmp_path)
    published = Tokenizer.from_folder(tmp_path)
    folders.config(tmp_path, "NllbTokenizer")
    bare = Tokenizer.from_folder(tmp_path)
    assert bare.languages == published.languages
    assert bare.mask_token_id == published.mask_token_id == published.vocab_size - 1
    assert list(bare.languages) == languages.NLLB


@pytest.mark.parametrize(
    ("write", "code", "at"), [(folders.mbart50, "fr_XX", 0), (folders.mbart, "fr_XX", -1)]
)
def test_a_request_brings_its_own_language(write: Any, code: str, at: int, tmp_path: Path) -> None:
    write(tmp_path)
    tokenizer = Tokenizer.from_folder(tmp_path)
    usual, asked = tokenizer.encode("a cat"), tokenizer.encode("a cat", language=code)
    assert asked.ids[at] == tokenizer.languages[code] == tokenizer.token_id(code)
    assert [i for i in range(len(usual.ids)) if usual.ids[i] != asked.ids[i]] == [at % len(usual.ids)]
    # a code that the text itself holds stays
    kept = tokenizer.encode("a de_DE cat", language=code).ids
    assert tokenizer.token_id("de_DE") in kept
    with pytest.raises(ValueError, match="unknown language 'tlh'"):
        tokenizer.encode("a cat", language="tlh")


def test_languages_of_marian_are_the_codes_of_its_vocabulary(tmp_path: Path) -> None:
    folders.marian(tmp_path)
    assert Tokenizer.from_folder(tmp_path).languages == {"fra": 2, "deu": 3}


def test_a_code_goes_into_the_text_where_marian_has_a_tokenizer_json_too(tmp_path: Path) -> None:
    folders.marian(tmp_path)
    built = Tokenizer.from_folder(tmp_path)
    inner = WordLevel({"</s>": 0, "<unk>": 1, ">>fra<<": 2, ">>deu<<": 3, "cat": 4}, "<unk>")
    tokenizers.Tokenizer(inner).save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_folder(tmp_path)
    assert tokenizer.languages == built.languages
    assert tokenizer.encode("cat", language="deu").ids == [3, 4]
    assert tokenizer.encode("cat").ids == [4]


def test_marian_writes_by_the_target_vocabulary_where_there_are_two(tmp_path: Path) -> None:
    folders.marian(tmp_path, separate=True)
    tokenizer = Tokenizer.from_folder(tmp_path)
    target = json.loads((tmp_path / "target_vocab.json").read_text(encoding="utf-8"))
    assert tokenizer.decode([target["▁cat"], target["</s>"]]) == "cat"
    source = json.loads((tmp_path / "vocab.json").read_text(encoding="utf-8"))
    assert tokenizer.encode("cat").ids == [source["▁cat"], source["</s>"]]


def test_no_text_is_read_as_a_control_piece(tmp_path: Path) -> None:
    folders.m2m100(tmp_path)
    tokenizer = Tokenizer.from_folder(tmp_path)
    specials = {tokenizer.token_id(text) for text in ("<s>", "<pad>", "</s>")}
    assert not specials & set(tokenizer.encode(" <s> ▁<s> x", add_special_tokens=False).ids[1:-1]) - {0}


def _delete(name: str) -> Any:
    return lambda folder: (folder / name).unlink()


def _write(name: str, text: str) -> Any:
    return lambda folder: (folder / name).write_text(text, encoding="utf-8")


BROKEN = [
    (folders.bert, _delete("vocab.txt"), "vocab.txt is missing, and so is tokenizer.json"),
    (folders.bert, _write("vocab.txt", "a\nb\n"), "vocab.txt: no '\\[UNK\\]' in it"),
    (folders.bert, _write("tokenizer.json", "{}"), "tokenizer.json: "),
    (folders.bert, _write("tokenizer_config.json", "[]"), "tokenizer_config.json: not a JSON object"),
    (folders.bert, _write("tokenizer_config.json", "{}"), "nothing says of which kind"),
    (folders.gpt2, _delete("merges.txt"), "merges.txt is missing"),
    (folders.gpt2, _write("vocab.json", "{"), "vocab.json"),
    (folders.gpt2, _write("merges.txt", "#version: 0.2\nqq zz\n"), "merges.txt: "),
    (folders.t5, _delete("spiece.model"), "spiece.model is missing, and so is tokenizer.json"),
    (folders.t5, _write("spiece.model", "not a model"), "spiece.model: not a SentencePiece model"),
    (folders.deberta, _delete("spm.model"), "spm.model is missing"),
    (folders.xlm_roberta, _delete("sentencepiece.bpe.model"), "sentencepiece.bpe.model is missing"),
    (folders.marian, _delete("source.spm"), "source.spm is missing"),
    (folders.marian, _delete("vocab.json"), "vocab.json is missing"),
    (folders.marian, _write("vocab.json", '{"a": -1}'), "vocab.json: the id of 'a' is -1"),
    (folders.marian, _write("vocab.json", '{"a": 1}'), "vocab.json: no '<unk>' in it"),
]


@pytest.mark.parametrize(("write", "damage", "message"), BROKEN)
def test_unusable_folder_is_told_in_one_line(write: Any, damage: Any, message: str, tmp_path: Path) -> None:
    write(tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=message) as raised:
        Tokenizer.from_folder(tmp_path)
    assert "\n" not in str(raised.value)


SETTINGS: list[tuple[dict[str, Any], str]] = [
    ({"added_tokens_decoder": {"9999": folders.token("<new>")}}, "'<new>' is published with id 9999"),
    ({"added_tokens_decoder": {"5": {"content": 7}}}, "added token '5': not a token"),
    ({"added_tokens_decoder": [1]}, "added tokens are not an object"),
    ({"sep_token": "[NO]", "added_tokens_decoder": {}, "cls_token": None}, "needs a cls_token"),
    ({"mask_token": 5}, "not a token: 5"),
    ({"never_split": 3}, "tokenizer_config.json: "),
]


@pytest.mark.parametrize(("settings", "message"), SETTINGS)
def test_settings_that_do_not_fit_are_told_in_one_line(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folders.bert(tmp_path)
    folders.config(tmp_path, "BertTokenizer", **settings)
    with pytest.raises(CheckpointError, match=message):
        Tokenizer.from_folder(tmp_path)
