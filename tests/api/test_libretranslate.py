"""LibreTranslate's interface over a fake engine: shapes, forms, codes, errors, and which model is asked."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.engine.protocol import GenerateRequest
from app.errors import Overloaded
from app.tasks import language_id
from app.tasks.language_id import Detected
from app.tasks.served import read_served
from tests.api.conftest import LIMITS, Service
from tests.api.folders import CONFIGS, write_folder

FORM = "application/x-www-form-urlencoded"
GERMAN = "Das Haus ist klein, aber wir mögen es sehr."
ENGLISH = "The house is small, but we like it very much."


def pairs(*names: str) -> dict[str, Any]:
    """A translator of these pairs, each with itself as its prefix."""
    params = {f"translation_{name.replace('-', '_to_')}": {"prefix": f"<{name}> "} for name in names}
    return CONFIGS["translator"] | {"task_specific_params": params}


@pytest.fixture(scope="module")
def libre(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """Three translators beside a writer."""
    root: Path = tmp_path_factory.mktemp("translators")
    configs = {
        "writer": CONFIGS["writer"],
        "first": pairs("en-de", "en-fr"),
        "second": pairs("de-en", "en-de", "de-fr"),
        "chinese": pairs("en-zh", "en-pt"),
    }
    running = Service(
        [read_served(name, write_folder(root / name, one)) for name, one in configs.items()], LIMITS
    )
    yield running
    running.close()


@pytest.fixture(autouse=True)
def _forget(libre: Service) -> None:
    libre.on_loop(libre.engine.requests.clear)
    libre.on_loop(lambda: setattr(libre.engine, "text", "X"))


def sent(libre: Service) -> list[str]:
    """What the engine was asked to translate, each with its model."""
    asked = [request for request in libre.engine.requests if isinstance(request, GenerateRequest)]
    return [
        f"{one.model}: {libre.engine.served[one.model].tokenizer.decode(one.prompt_ids)}" for one in asked
    ]


def translate(libre: Service, q: Any, source: str = "en", target: str = "de", **more: Any) -> Any:
    response = libre.post("/translate", {"q": q, "source": source, "target": target, **more})
    assert response.status_code == 200, response.text
    return response.json()


def refusal(response: httpx.Response, status: int = 400) -> str:
    """The message, which is all that an error has."""
    assert response.status_code == status, response.text
    body = response.json()
    assert list(body) == ["error"]
    assert isinstance(body["error"], str)
    message: str = body["error"]
    return message


def test_a_text_gives_a_text_and_a_list_a_list(libre: Service) -> None:
    libre.on_loop(lambda: setattr(libre.engine, "text", "Ja! " * 200))
    one = translate(libre, "One.", api_key="whatever", secret="unknown to us")
    assert list(one) == ["translatedText"]
    assert one["translatedText"].startswith("Ja! ")
    many = translate(libre, ["One.", "42 %", ""])
    assert many == {"translatedText": [one["translatedText"], "42 %", ""]}


def test_sentences_keep_their_spacing_and_form_lines_end_in_lf(libre: Service) -> None:
    form = {
        "q": "One is.  Two are.\r\n\r\n42\r\n",
        "source": "en",
        "target": "de",
        "api_key": "",
        "alternatives": "",
        "format": "text",
    }
    response = libre.client.post("/translate", data=form)
    assert response.headers["content-type"] == "application/json"
    text = response.json()["translatedText"]
    assert text.replace("X", "") == "  \n\n42\n"
    assert sent(libre) == ["first: <en-de> One is.", "first: <en-de> Two are."]


def test_a_form_takes_lists_and_numbers(libre: Service) -> None:
    body = "q=a+b&q=%C3%BC&source=en&target=de&alternatives=2"
    response = libre.client.post(
        "/translate", content=body, headers={"Content-Type": f"{FORM}; charset=utf-8"}
    )
    answer = response.json()
    assert len(answer["translatedText"]) == 2
    assert [len(others) for others in answer["alternatives"]] == [2, 2]
    assert sent(libre) == ["first: <en-de> a b", "first: <en-de> ü"]


def test_alternatives_are_the_next_best_of_a_search_without_repeats(libre: Service) -> None:
    answer = translate(libre, "One.", alternatives=3)
    assert list(answer) == ["translatedText", "alternatives"]
    assert len({answer["translatedText"], *answer["alternatives"]}) == 4
    request = libre.engine.requests[0]
    assert isinstance(request, GenerateRequest)
    assert (request.params.num_beams, request.params.num_return_sequences) == (4, 4)
    assert "alternatives" not in translate(libre, "One.", alternatives=0)
    assert translate(libre, "42", alternatives=1) == {"translatedText": "42", "alternatives": []}


def test_the_first_model_that_has_the_pair_is_asked(libre: Service) -> None:
    translate(libre, "Hallo", "de", "en")
    translate(libre, "Hello", "en", "de")
    translate(libre, "Hello", "en", "de", model="second")
    assert sent(libre) == ["second: <de-en> Hallo", "first: <en-de> Hello", "second: <en-de> Hello"]
    message = refusal(libre.post("/translate", {"q": "a", "source": "fr", "target": "de"}))
    assert "'fr' to 'de'" in message
    message = refusal(libre.post("/translate", {"q": "a", "source": "de", "target": "fr", "model": "first"}))
    assert "first" in message
    refusal(libre.post("/translate", {"q": "a", "source": "de", "target": "fr", "model": "none"}), 404)


@pytest.mark.parametrize("code", ["zh", "zh-Hans", "zh-hans"])
def test_chinese_has_an_old_and_a_new_code(libre: Service, code: str) -> None:
    translate(libre, "Hello", "en", code)
    assert sent(libre) == ["chinese: <en-zh> Hello"]


@pytest.mark.parametrize("code", ["pt", "pb", "pt-BR"])
def test_brazilian_portuguese_is_portuguese_where_there_is_no_other(libre: Service, code: str) -> None:
    translate(libre, "Hello", "en", code)
    assert sent(libre) == ["chinese: <en-pt> Hello"]


def test_traditional_chinese_is_not_simplified(libre: Service) -> None:
    for code in ("zt", "zh-Hant"):
        refusal(libre.post("/translate", {"q": "Hello", "source": "en", "target": code}))


def test_auto_finds_the_language_of_each_text(libre: Service) -> None:
    answer = translate(libre, [GERMAN, ENGLISH, "42"], "auto", "fr")
    assert len(answer["translatedText"]) == 3
    assert [one["language"] for one in answer["detectedLanguage"]] == ["de", "en", "en"]
    german, _, nothing = [one["confidence"] for one in answer["detectedLanguage"]]
    assert 50 < german <= 100
    assert nothing == 0
    assert sorted(sent(libre)) == [f"first: <en-fr> {ENGLISH}", f"second: <de-fr> {GERMAN}"]
    one = translate(libre, GERMAN, "auto", "fr")
    assert one["detectedLanguage"] == answer["detectedLanguage"][0]
    assert one["translatedText"] == answer["translatedText"][0]


def test_a_text_in_the_target_s_language_stays_as_it_is(libre: Service) -> None:
    answer = translate(libre, GERMAN, "auto", "de", alternatives=1)
    assert answer["translatedText"] == GERMAN
    assert answer["detectedLanguage"]["language"] == "de"
    assert answer["alternatives"] == []
    assert translate(libre, GERMAN, "de", "de") == {"translatedText": GERMAN}
    assert not libre.engine.requests


def test_in_doubt_a_text_is_in_a_language_that_is_translated(
    libre: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    ranked = [Detected("de", 0.3), Detected("it", 0.25), Detected("en", 0.2)]

    async def rank(texts: list[str]) -> list[list[Detected]]:
        return [ranked for _ in texts]

    monkeypatch.setattr(libre.registry.detector, "rank", rank)
    assert translate(libre, "Hello", "auto", "de")["detectedLanguage"] == {
        "language": "en",
        "confidence": 20.0,
    }
    assert sent(libre) == ["first: <en-de> Hello"]


def test_a_language_that_nobody_translates_is_named(libre: Service) -> None:
    message = refusal(libre.post("/translate", {"q": GERMAN, "source": "auto", "target": "zh"}))
    assert "German (de)" in message


def test_html_keeps_its_tags(libre: Service) -> None:
    source = (
        '<p class="a&b">Fish &amp; <b>chips</b></p><pre>as it is</pre><script>if (a<b) x="</p>"</script>42'
    )
    libre.on_loop(lambda: setattr(libre.engine, "text", "<"))
    answer = translate(libre, [source], format="html")["translatedText"][0]
    assert answer.replace("&lt;", "") == (
        '<p class="a&b"> <b></b></p><pre>as it is</pre><script>if (a<b) x="</p>"</script>42'
    )
    assert sent(libre) == ["first: <en-de> Fish &", "first: <en-de> chips"]
    auto = translate(libre, f"<p>{GERMAN}</p>", "auto", "fr", format="html", alternatives=1)
    assert auto["detectedLanguage"]["language"] == "de"
    assert len(auto["alternatives"]) == 1
    assert auto["alternatives"][0].startswith("<p>&lt;")


def test_detect_tells_per_cent(libre: Service) -> None:
    (best, *_) = libre.client.post("/detect", data={"q": GERMAN}).json()
    assert best["language"] == "de"
    assert 90 < best["confidence"] <= 100
    assert libre.post("/detect", {"q": "42"}).json() == [{"language": "en", "confidence": 0.0}]


def test_languages_are_those_of_all_models(libre: Service) -> None:
    assert libre.client.get("/languages").json() == [
        {"code": "en", "name": "English", "targets": ["de", "fr", "zh", "pt"]},
        {"code": "de", "name": "German", "targets": ["en", "fr"]},
    ]


def test_settings_say_what_a_page_begins_with(libre: Service) -> None:
    settings = libre.client.get("/frontend/settings").json()
    assert settings["language"] == {
        "source": {"code": "auto", "name": "Auto Detect"},
        "target": {"code": "de", "name": "German"},
    }
    assert (settings["charLimit"], settings["keyRequired"], settings["supportedFilesFormat"]) == (
        -1,
        False,
        [],
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"q": None}, "q"),
        ({"q": 3}, "q"),
        ({"q": []}, "q"),
        ({"q": ["a"] * 2049}, "q"),
        ({"source": None}, "source"),
        ({"target": ["de"]}, "target"),
        ({"target": "xx"}, "xx"),
        ({"format": "pdf"}, "format"),
        ({"alternatives": 8}, "alternatives"),
        ({"alternatives": "two"}, "alternatives"),
        ({"alternatives": -1}, "alternatives"),
    ],
)
def test_what_is_wrong_is_named(libre: Service, change: dict[str, Any], named: str) -> None:
    body = {"q": "a", "source": "en", "target": "de"} | change
    assert named in refusal(libre.post("/translate", {k: v for k, v in body.items() if v is not None}))


@pytest.mark.parametrize("body", [b"q=%ff&source=en&target=de", "q=ü".encode(), b"&".join([b"q=a"] * 5000)])
def test_what_is_no_form_is_refused(libre: Service, body: bytes) -> None:
    message = refusal(libre.client.post("/translate", content=body, headers={"Content-Type": FORM}))
    assert "not a form" in message


def test_forms_are_for_these_routes_alone(libre: Service) -> None:
    native = libre.client.post("/v1/translate", data={"text": "a", "target": "de"})
    assert native.status_code == 415
    multipart = libre.client.post("/translate", files={"q": b"a"})
    assert "JSON" in refusal(multipart, 415)
    missing = libre.client.post("/translate", data={"q": "a", "target": "de"})
    assert "source" in refusal(missing)


def test_without_lingua_it_is_said_what_to_install(libre: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_id, "is_installed", lambda: False)
    for path, body in (
        ("/translate", {"q": "Hello", "source": "auto", "target": "de"}),
        ("/detect", {"q": "Hello"}),
    ):
        assert "quartet[langid]" in refusal(libre.post(path, body))
    native = libre.post("/v1/translate", {"text": "Hello", "source": "auto", "target": "de"})
    assert native.status_code == 400
    assert native.json()["error"]["param"] == "source"


def test_overload_and_draining_have_their_statuses(service: Service) -> None:
    body = {"q": "a", "source": "en", "target": "de"}
    service.on_loop(
        lambda: setattr(service.engine, "failure", Overloaded("the queue is full", retry_after=3))
    )
    crowded = service.post("/translate", body)
    assert crowded.headers["retry-after"] == "3"
    refusal(crowded, 429)
    service.on_loop(lambda: setattr(service.registry.in_flight, "is_draining", True))
    refusal(service.post("/translate", body), 503)


def test_a_thousand_texts_are_one_request(libre: Service) -> None:
    texts = [f"Text number {i}. It is short." for i in range(1000)]
    answer = libre.post(
        "/v1/translate", {"text": texts, "target": "de", "max_tokens": 2, "model": "first"}
    ).json()
    assert [one["text"] for one in answer["translations"]] == ["XX XX"] * 1000
    assert len(libre.engine.requests) == 2000
    assert len(translate(libre, texts)["translatedText"]) == 1000


def test_native_auto_tells_the_language_beside_the_text(libre: Service) -> None:
    body = {"text": [GERMAN, "42"], "source": "auto", "target": "fr", "model": "second", "max_tokens": 2}
    german, nothing = libre.post("/v1/translate", body).json()["translations"]
    assert (german["text"], german["detected"]["language"]) == ("XX", "de")
    assert 0.5 < german["detected"]["confidence"] <= 1
    assert nothing == {"text": "42", "score": 1.0, "detected": {"language": "en", "confidence": 0.0}}
    assert sent(libre) == [f"second: <de-fr> {GERMAN}"]


@pytest.mark.parametrize(("target", "text"), [("fr", "XX"), ("de", GERMAN)])
def test_a_stream_tells_the_language_with_its_first_text(libre: Service, target: str, text: str) -> None:
    body = {
        "text": GERMAN,
        "source": "auto",
        "target": target,
        "model": "second",
        "max_tokens": 2,
        "stream": True,
    }
    lines = libre.post("/v1/translate", body).text.split("\n\n")
    events = [httpx.Response(200, content=line.removeprefix("data: ")).json() for line in lines[:-2]]
    pieces = [event["translations"][0] for event in events]
    assert "".join(piece["text"] for piece in pieces) == text
    assert pieces[0]["detected"]["language"] == "de"
    assert all("detected" not in piece for piece in pieces[1:])
    assert pieces[-1]["finish_reason"] in ("stop", "length")


def test_a_sentence_over_the_limit_is_cut_at_its_clauses(libre: Service) -> None:
    half = "a word and " * 10
    long = f"{half}one; {half}two"
    answer = libre.post("/v1/translate", {"text": long, "target": "de", "max_tokens": 1, "model": "first"})
    assert answer.json()["translations"][0]["text"] == "X X"
    assert sent(libre) == [f"first: <en-de> {half}one;", f"first: <en-de> {half}two"]
    whole = {"text": long, "target": "de", "model": "first", "split_sentences": False}
    assert libre.post("/v1/translate", whole).json()["error"]["code"] == "too_long"
