"""LibreTranslate's own Python client, unchanged, against the real service with the zoo's translator."""

import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest
from libretranslatepy import LibreTranslateAPI

from tests.e2e.conftest import Process

TRANSLATOR = Path(__file__).resolve().parents[2] / "model" / "zoo" / "translator"


@pytest.fixture(scope="module")
def zoo() -> Iterator[Process]:
    process = Process("--model", f"translator={TRANSLATOR}")
    yield process
    assert process.stop() == 0


@pytest.fixture
def client(zoo: Process) -> LibreTranslateAPI:
    return LibreTranslateAPI(str(zoo.client.base_url), api_key="not needed")


def test_translate(client: LibreTranslateAPI) -> None:
    assert client.translate("Tom is a doctor.\r\n\r\n42", "en", "de") == "Tom ist Arzt.\n\n42"
    assert client.translate("Tom is a doctor.", "en", "fr") == "Tom est médecin."
    assert client.translate("Tom is a doctor.", "en", "zh-Hans") == client.translate(
        "Tom is a doctor.", "en", "zh"
    )


def test_translate_from_what_is_detected(client: LibreTranslateAPI) -> None:
    assert client.translate("Tom is a doctor.", "auto", "de") == "Tom ist Arzt."


def test_detect(client: LibreTranslateAPI) -> None:
    for text, language in (
        ("Where is the nearest station?", "en"),
        ("Où est la gare la plus proche ?", "fr"),
    ):
        best, *others = client.detect(text)
        assert best["language"] == language
        assert all(10 <= other["confidence"] <= best["confidence"] <= 100 for other in others)


def test_languages(client: LibreTranslateAPI) -> None:
    assert client.languages() == [{"code": "en", "name": "English", "targets": ["de", "fr", "zh"]}]


def test_a_refusal_is_the_client_s_http_error(client: LibreTranslateAPI) -> None:
    with pytest.raises(urllib.error.HTTPError) as refused:
        client.translate("Hallo", "de", "en")
    with refused.value as answer:
        assert answer.code == 400
        assert b'"error":"target: ' in answer.read()


def test_alternatives_and_html_with_the_real_model(zoo: Process) -> None:
    body = {
        "q": "<p>Tom is <i>a doctor</i>.</p>",
        "source": "en",
        "target": "de",
        "format": "html",
        "alternatives": 2,
    }
    answer = zoo.client.post("/translate", json=body).json()
    assert answer["translatedText"].startswith("<p>")
    assert answer["translatedText"].count("<i>") == answer["translatedText"].count("</i>") == 1
    assert 1 <= len(answer["alternatives"]) <= 2
    assert answer["translatedText"] not in answer["alternatives"]
