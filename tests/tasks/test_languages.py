"""Which languages a checkpoint's files name, and what a request's codes make of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import transformers

from app.errors import InvalidRequest
from app.tasks.language_codes import SHORT
from app.tasks.languages import (
    CodeInText,
    FirstToken,
    Languages,
    Prefixes,
    Way,
    find_languages,
    matching,
    translates,
)
from model.config import TransformerConfig
from model.families import read_config, to_hf_config
from model.tokenization import Tokenizer, languages
from tests.tasks.test_encoder_decoders import BART
from tests.tokenizers import folders
from tests.tokenizers.texts import write_json

PAIRS = {"task_specific_params": {"translation_en_to_de": {"prefix": "to German: "}}}


def shape(folder: Path, family: str, **changes: Any) -> TransformerConfig:
    folder.mkdir(exist_ok=True)
    plain = {"vocab_size": 10_000, "pad_token_id": 1, "model_type": family}
    write_json(folder / "config.json", BART | plain | changes)
    return read_config(folder)


def find(folder: Path, write: Callable[[Path], None], family: str, **changes: Any) -> Languages:
    config = shape(folder, family, **changes)
    write(folder)
    return find_languages("it", config, Tokenizer.from_folder(folder))


def rename(folder: Path, **settings: Any) -> None:
    """Other languages in a Marian's settings; None leaves one out."""
    file = folder / "tokenizer_config.json"
    merged = json.loads(file.read_text(encoding="utf-8")) | settings
    write_json(file, {key: value for key, value in merged.items() if value is not None})


def bilingual(source: str | None, target: str | None) -> Callable[[Path], None]:
    """A Marian without codes in its vocabulary."""

    def write(folder: Path) -> None:
        folders.marian(folder)
        vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        renamed = {text.replace(">>", "x").replace("<<", "x"): i for text, i in vocabulary.items()}
        write_json(folder / "vocab.json", renamed)
        rename(folder, source_lang=source, target_lang=target)

    return write


def refusal(found: Languages, source: str | None, target: str) -> tuple[str | None, str]:
    with pytest.raises(InvalidRequest) as refused:
        found.way(source, target)
    return refused.value.param, str(refused.value)


@pytest.mark.parametrize(
    ("given", "codes", "wanted"),
    [
        ("eng_Latn", languages.NLLB, ["eng_Latn"]),
        ("ENG-latn", languages.NLLB, ["eng_Latn"]),
        ("eng", languages.NLLB, ["eng_Latn"]),
        ("en", languages.NLLB, ["eng_Latn"]),
        ("EN", languages.NLLB, ["eng_Latn"]),
        ("ar", languages.NLLB, ["arb_Arab"]),
        ("no", languages.NLLB, ["nob_Latn"]),
        ("nb", languages.NLLB, ["nob_Latn"]),
        ("nn", languages.NLLB, ["nno_Latn"]),
        ("ckb", languages.NLLB, ["ckb_Arab"]),
        ("zh", languages.NLLB, ["zho_Hans", "zho_Hant"]),
        ("zh-Hant", languages.NLLB, ["zho_Hant"]),
        ("cmn_Hans", languages.NLLB, ["zho_Hans"]),
        ("ace", languages.NLLB, ["ace_Arab", "ace_Latn"]),
        ("en_Cyrl", languages.NLLB, []),
        ("xx", languages.NLLB, []),
        ("", languages.NLLB, []),
        ("en", languages.MBART50, ["en_XX"]),
        ("pt", languages.MBART50, ["pt_XX"]),
        ("zh", languages.MBART50, ["zh_CN"]),
        ("pt_BR", languages.MBART50, []),
        ("de", languages.M2M100, ["de"]),
        ("deu", languages.M2M100, ["de"]),
        ("nob", languages.M2M100, ["no"]),
        ("pt", ["por", "pt_br"], ["por"]),
        ("de", ["deu", "ger"], ["deu"]),
    ],
)
def test_codes_are_taken_as_published_or_short(given: str, codes: list[str], wanted: list[str]) -> None:
    assert matching(given, codes) == wanted


def test_every_short_code_of_m2m100_and_mbart_means_at_most_one_of_nllb() -> None:
    several = {
        short: found
        for short in sorted({*languages.M2M100, *(code[:2] for code in languages.MBART50)})
        if len(found := matching(short, languages.NLLB)) != 1
    }
    # two scripts; what NLLB does not have; a code that no standard has
    assert several == {"zh": ["zho_Hans", "zho_Hant"], "br": [], "fy": [], "ns": []}
    assert all(len(code) == 3 or code == "nb" for code in SHORT)


def test_nllb_takes_any_pair_and_says_so_where_the_source_is_not_known(tmp_path: Path) -> None:
    found = find(tmp_path, folders.nllb, "m2m_100")
    assert isinstance(found, FirstToken)
    assert found.way("en", "de") == Way(language="eng_Latn", first_token=found.ids["deu_Latn"])
    assert found.told() == {"any": languages.NLLB}
    param, message = refusal(found, None, "de")
    assert param == "source"
    assert (
        message
        == "say which language the text is in: "
        + ", ".join(sorted(languages.NLLB)[:12])
        + " and 190 more (see /v1/models)"
    )
    param, message = refusal(found, "en", "gr")
    assert param == "target"
    assert message.startswith("'it' translates to grn_Latn, ace_Arab, ")
    assert refusal(found, "xx", "de")[0] == "source"
    assert refusal(found, "en", "zh") == ("target", "'zh' may be zho_Hans, zho_Hant")


def test_a_published_source_is_the_default(tmp_path: Path) -> None:
    found = find(tmp_path, folders.nllb_legacy, "m2m_100")
    assert found.way(None, "en").language == "fra_Latn"
    assert found.way("de", "en").language == "deu_Latn"


def test_an_mbart_that_starts_with_a_language_translates_into_that_one(tmp_path: Path) -> None:
    write = folders.mbart
    ids = Tokenizer.from_folder(_made(tmp_path / "one", write)).languages
    found = find(tmp_path / "two", write, "mbart", decoder_start_token_id=ids["fr_XX"])
    assert found.way("en", "fr") == Way(language="en_XX")
    assert found.way(None, "fr_XX") == Way(language="ro_RO")
    assert refusal(found, None, "de") == ("target", "'it' translates to fr_XX")
    pairs = found.told()["pairs"]
    assert ["en_XX", "fr_XX"] in pairs
    assert len(pairs) == len(languages.MBART) - 1
    free = find(tmp_path / "three", write, "mbart")
    assert free.way("en", "fr") == Way(language="en_XX", first_token=ids["fr_XX"])


def test_languages_that_the_model_has_no_rows_for_are_none(tmp_path: Path) -> None:
    _made(tmp_path, folders.mbart50)
    first = min(Tokenizer.from_folder(tmp_path).languages.values())
    found = find(tmp_path, folders.mbart50, "mbart", vocab_size=first + 2)
    assert found.told() == {"any": languages.MBART50[:2]}


def test_marian_puts_the_target_s_code_into_the_text(tmp_path: Path) -> None:
    found = find(tmp_path, folders.marian, "marian")
    assert isinstance(found, CodeInText)
    for target in ("fra", "fr"):
        assert found.way("en", target) == found.way("eng", target) == Way(language="fra")
    assert found.way(None, "de") == Way(language="deu")
    assert found.told() == {"pairs": [["en", "fra"], ["en", "deu"]]}
    assert refusal(found, None, "es") == ("target", "'it' translates to deu, fra")
    assert refusal(found, "fr", "de") == ("source", "'it' translates from en")


def test_codes_of_a_marian_for_one_language_are_left_alone(tmp_path: Path) -> None:
    def write(folder: Path) -> None:
        folders.marian(folder)
        rename(folder, source_lang="mul", target_lang="eng")

    found = find(tmp_path, write, "marian")
    assert found.way("anything", "en") == Way()
    assert found.told() == {"pairs": [["mul", "eng"]]}
    assert refusal(found, None, "fr") == ("target", "'it' translates to eng")


def test_marian_is_named_by_its_settings_or_by_the_checkpoint(tmp_path: Path) -> None:
    by_settings = find(tmp_path / "a", bilingual("eng", "deu"), "marian")
    assert by_settings.told() == {"pairs": [["eng", "deu"]]}
    assert by_settings.way("en", "de") == Way()
    names = {
        "Helsinki-NLP/opus-mt-en-de": ["en", "de"],
        "/tmp/opus-mt-tc-big-zle-pt/": ["zle", "pt"],
        "Helsinki-NLP/opus-mt-fr-ROMANCE": ["fr", "ROMANCE"],
    }
    for i, (name, pair) in enumerate(names.items()):
        found = find(tmp_path / str(i), bilingual(None, None), "marian", _name_or_path=name)
        assert found.told() == {"pairs": [pair]}


def test_the_name_of_a_marian_is_written_again(tmp_path: Path) -> None:
    name = "Helsinki-NLP/opus-mt-en-de"
    written = to_hf_config(shape(tmp_path, "marian", _name_or_path=name))
    assert transformers.MarianConfig.from_dict(written).name_or_path == name


def test_a_marian_that_nothing_names_takes_the_target_as_given(tmp_path: Path) -> None:
    found = find(tmp_path / "a", bilingual(None, None), "marian", _name_or_path="my/model")
    assert found.way("xx", "yy") == Way()
    assert found.told() == {}
    half = find(tmp_path / "b", bilingual(None, "de"), "marian")
    assert half.told() == {"target": ["de"]}
    assert refusal(half, None, "fr")[0] == "target"


def test_prefixes_name_their_pairs() -> None:
    found = Prefixes("it", {("en", "de"): "a", ("fr", "de"): "b", ("en", "fr"): "c"})
    assert found.way("fr", "de") == Way(prefix="b")
    assert found.way(None, "FR") == Way(prefix="c")
    assert refusal(found, None, "de") == ("source", "say which language the text is in: en, fr")
    assert refusal(found, "de", "fr") == ("source", "'it' translates to fr from en")
    assert refusal(found, None, "xx") == ("target", "'it' translates to de, fr")
    assert found.told() == {"pairs": [["en", "de"], ["fr", "de"], ["en", "fr"]]}


def test_who_translates(tmp_path: Path) -> None:
    for family in ("mbart", "m2m_100", "marian"):
        assert translates(shape(tmp_path, family))
    assert not translates(shape(tmp_path, "bart"))
    assert translates(shape(tmp_path, "bart", **PAIRS))
    classifier = ["BartForSequenceClassification"]
    assert not translates(shape(tmp_path, "bart", architectures=classifier, **PAIRS))


def test_a_multilingual_model_without_codes_says_that_it_has_none(tmp_path: Path) -> None:
    found = find(tmp_path, folders.t5, "mbart")
    assert refusal(found, None, "de") == (
        "target",
        "'it' translates to no language that its files name",
    )


def _made(folder: Path, write: Callable[[Path], None]) -> Path:
    folder.mkdir(exist_ok=True)
    write(folder)
    return folder
