"""Languages are told apart in threads of the pool, and the models are loaded when first asked for."""

import asyncio
import importlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from app.tasks.language_id import NOTHING, READ_CHARACTERS, LanguageDetector
from app.tasks.language_names import english_name, language_of, listed_codes, readings
from model.tokenization import languages

SENTENCES = {
    "en": "Where is the nearest station, please?",
    "de": "Wo ist bitte der nächste Bahnhof?",
    "fr": "Où se trouve la gare la plus proche ?",
    "ru": "Где здесь ближайший вокзал?",
    "zh": "请问最近的车站在哪里？",
}


@pytest.fixture(scope="module")
def detector() -> Iterator[LanguageDetector]:
    with ThreadPoolExecutor(1, thread_name_prefix="detecting") as pool:
        yield LanguageDetector(pool, [*SENTENCES, "xx"])


def test_each_text_has_its_languages_likeliest_first(detector: LanguageDetector) -> None:
    ranked = asyncio.run(detector.rank(list(SENTENCES.values())))
    assert [one[0].language for one in ranked] == list(SENTENCES)
    for one in ranked:
        confidences = [found.confidence for found in one]
        assert confidences == sorted(confidences, reverse=True)
        assert confidences[0] > 0.5
        assert sum(confidences) == pytest.approx(1, abs=1e-3)


def test_a_text_without_letters_is_in_no_language(detector: LanguageDetector) -> None:
    assert asyncio.run(detector.rank(["42 % — 3.5 €", "", " \n"])) == [[NOTHING]] * 3
    assert NOTHING.confidence == 0


def test_only_the_beginning_of_a_long_text_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []

    class Noting:
        def compute_language_confidence_values(self, text: str) -> list[Any]:
            read.append(text)
            return []

    with ThreadPoolExecutor(1) as pool:
        detector = LanguageDetector(pool, ["en", "de"])
        monkeypatch.setattr(detector, "_load", Noting)
        assert asyncio.run(detector.rank([" \n" + "ab " * 100_000])) == [[NOTHING]]
    assert read == [("ab " * 100_000)[:READ_CHARACTERS]]


def test_lingua_works_in_the_pool_and_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    load = importlib.import_module

    def noted(name: str) -> Any:
        if name == "lingua":
            calls.append(threading.current_thread().name)
        return load(name)

    monkeypatch.setattr(importlib, "import_module", noted)
    with ThreadPoolExecutor(2, thread_name_prefix="detecting") as pool:
        detector = LanguageDetector(pool, ["en", "de"])
        assert not calls

        async def ask() -> None:
            await asyncio.gather(*(detector.rank([text]) for text in SENTENCES.values()))

        asyncio.run(ask())
    assert len(calls) == 1
    assert calls[0].startswith("detecting")


def test_codes_are_listed_short_where_that_is_clear() -> None:
    listed = listed_codes(languages.NLLB)
    assert len(set(listed.values())) == len(languages.NLLB)
    told = {
        code: listed[code]
        for code in ("eng_Latn", "zho_Hans", "zho_Hant", "nob_Latn", "ace_Arab", "yue_Hant")
    }
    assert list(told.values()) == ["en", "zh-Hans", "zh-Hant", "no", "ace-Arab", "yue"]
    assert listed_codes(["zh_CN", "pt_XX"]) == {"zh_CN": "zh", "pt_XX": "pt"}
    assert listed_codes(["fr", "fr_BE"]) == {"fr": "fr", "fr_BE": "fr-BE"}


@pytest.mark.parametrize("published", [languages.NLLB, languages.MBART50, languages.M2M100])
def test_every_published_language_has_an_english_name(published: list[str]) -> None:
    listed = listed_codes(published).values()
    unnamed = [code for code in listed if english_name(code) == code]
    assert not unnamed
    assert english_name("zh-Hant") == "Chinese (Traditional)"
    assert english_name("mul") == "mul"


def test_old_codes_are_read_as_new_ones() -> None:
    assert "zh-Hant" in readings("zt")
    assert "pt-BR" in readings("pb")
    assert readings("de") == ("de",)
    assert [language_of(code) for code in ("zt", "zh-Hans", "pb", "deu_Latn", "en_XX")] == [
        "zh",
        "zh",
        "pt",
        "de",
        "en",
    ]
