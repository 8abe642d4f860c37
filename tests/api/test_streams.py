"""Server-sent events over a real socket: their shape, their end, and what happens when the client leaves."""

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.api import streaming
from app.errors import EngineFailed
from tests.api.conftest import Service
from tests.api.fake_engine import TEXT

GENERATE = {"prompt": "Hi", "max_tokens": 30, "stream": True}


def events(response: httpx.Response) -> Iterator[Any]:
    """The decoded events; `[DONE]` as the string."""
    for line in response.iter_lines():
        if line.startswith("data: "):
            data = line.removeprefix("data: ")
            yield data if data == "[DONE]" else json.loads(data)


def read(service: Service, path: str, body: dict[str, Any]) -> list[Any]:
    with service.client.stream("POST", path, json=body) as response:
        assert response.status_code == 200, response.read()
        return list(events(response))


def test_a_stream_has_its_headers(service: Service) -> None:
    with service.client.stream("POST", "/v1/generate", json=GENERATE) as response:
        assert response.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["x-accel-buffering"] == "no"
        assert response.headers["x-request-id"]
        lines = list(response.iter_lines())
    assert lines[-2:] == ["data: [DONE]", ""]
    assert all(line == "" or line.startswith("data: ") for line in lines)


def test_generate_streams_whole_characters(service: Service) -> None:
    *chunks, last, done = read(service, "/v1/generate", GENERATE)
    assert done == "[DONE]"
    pieces = [chunk["results"][0]["text"] for chunk in [*chunks, last]]
    assert (
        "".join(pieces)
        == service.post("/v1/generate", GENERATE | {"stream": False}).json()["results"][0]["text"]
    )
    assert all(piece and "\ufffd" not in piece for piece in pieces[:-1])
    assert all(set(chunk) == {"model", "results"} for chunk in chunks)
    assert last["results"][0]["finish_reason"] == "length"
    assert last["usage"]["completion_tokens"] == 30


def test_a_stop_string_never_shows_and_frees_the_sequence(service: Service) -> None:
    *chunks, done = read(service, "/v1/generate", GENERATE | {"stop": "Stop"})
    assert "".join(chunk["results"][0]["text"] for chunk in chunks) == TEXT[: TEXT.index("Stop")]
    assert chunks[-1]["results"][0]["finish_reason"] == "stop"
    assert (done, service.engine.num_aborted, service.engine.num_running) == ("[DONE]", 1, 0)


def test_translate_streams_sentences_in_order_with_their_spacing(service: Service) -> None:
    service.on_loop(lambda: setattr(service.engine, "text", "ab."))
    body = {"text": "One.  Two.\n3\n", "target": "de", "max_tokens": 3, "stream": True}
    *chunks, done = read(service, "/v1/translate", body)
    assert "".join(chunk["translations"][0]["text"] for chunk in chunks) == "ab.  ab.\n3\n"
    assert chunks[-1]["translations"][0]["finish_reason"] == "length"
    assert (done, chunks[-1]["usage"]["completion_tokens"]) == ("[DONE]", 6)


def test_completions_stream_in_openai_shape(service: Service) -> None:
    body = {"prompt": ["a", "b"], "max_tokens": 4, "n": 2, "stream": True, "temperature": 0}
    *chunks, done = read(service, "/v1/completions", body | {"stream_options": {"include_usage": True}})
    last = chunks.pop()
    assert (done, last["choices"], last["usage"]["completion_tokens"]) == ("[DONE]", [], 16)
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert all(chunk["usage"] is None for chunk in chunks)
    for index in range(4):
        mine = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert "".join(choice["text"] for choice in mine) == TEXT[:3]
        assert [choice["finish_reason"] for choice in mine][-1] == "length"
    plain = read(service, "/v1/completions", body)
    assert all("usage" not in chunk for chunk in plain[:-1])


def test_every_byte_of_a_completion_stream_is_as_the_contract_has_it(service: Service) -> None:
    """What changes from event to event is escaped; what stays is written once."""
    service.on_loop(lambda: setattr(service.engine, "text", 'é"\\\n'))
    body = {"prompt": "a", "max_tokens": 5, "stream": True, "stream_options": {"include_usage": True}}
    with service.client.stream(
        "POST", "/v1/completions", json=body, headers={"X-Request-ID": "r1"}
    ) as answer:
        content = answer.read().decode()
    model = service.registry.default_model("generate")
    created = re.search(r'"created":(\d+)', content)
    assert created is not None
    head = (
        f'data: {{"id":"cmpl-r1","object":"text_completion","created":{created[1]},"model":"{model}",'
        f'"system_fingerprint":"quartet-{service.registry.version}","choices":['
    )
    texts = ["é", '\\"', "\\\\", "\\n"]
    pieces = [f'{{"index":0,"text":"{text}","logprobs":null,"finish_reason":null}}' for text in texts]
    pieces[-1] = pieces[-1].replace('"finish_reason":null', '"finish_reason":"length"')
    *events, last, done, end = content.split("\n\n")
    assert events == [f'{head}{piece}],"usage":null}}' for piece in pieces]
    assert last.startswith(f'{head}],"usage":{{"prompt_tokens":')
    assert (done, end) == ("data: [DONE]", "")


def test_an_error_in_a_stream_is_its_last_event(service: Service) -> None:
    service.engine.failure, service.engine.fail_after = EngineFailed("the step failed"), 3
    *chunks, last = read(service, "/v1/generate", GENERATE)
    assert len(chunks) >= 1
    assert last["error"]["code"] == "engine_failed"
    assert 'outcome="error",task="generate"} 1.0' in service.client.get("/metrics").text


def test_a_deadline_in_a_stream_is_its_last_event(service: Service) -> None:
    service.engine.free_tokens = 3
    service.on_loop(service.engine.gate.clear)
    *_, last = read(service, "/v1/generate", GENERATE | {"timeout": 0.2})
    assert last["error"]["type"] == "timeout_error"
    assert service.engine.num_aborted == 1


def test_silence_is_filled_with_pings(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "PING_SECONDS", 0.02)
    monkeypatch.setattr(streaming, "HEAD_SECONDS", 0.02)
    service.on_loop(service.engine.gate.clear)
    with service.client.stream("POST", "/v1/generate", json=GENERATE) as response:
        lines = response.iter_lines()
        assert next(lines) == ": ping"
        service.on_loop(service.engine.gate.set)
        assert list(lines)[-2] == "data: [DONE]"


def test_a_client_that_leaves_a_stream_frees_its_sequence(service: Service) -> None:
    service.engine.free_tokens = 2
    service.on_loop(service.engine.gate.clear)
    with service.client.stream("POST", "/v1/generate", json=GENERATE) as response:
        next(response.iter_lines())
    service.wait_until(lambda: service.engine.num_running == 0)
    assert service.engine.num_aborted == 1
    assert 'outcome="aborted",task="generate"} 1.0' in service.client.get("/metrics").text


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/generate", {"prompt": "Hi"}),
        ("/v1/generate", {"prompt": ["Hi", "you"], "stop": "x"}),
        ("/v1/completions", {"prompt": ["a", "b"], "stream": True}),
        ("/v1/classify", {"text": ["a", "b"]}),
        ("/v1/translate", {"text": "One. Two.", "target": "de"}),
        ("/v1/translate", {"text": "One. Two.", "target": "de", "stream": True}),
    ],
)
def test_a_client_that_leaves_a_plain_request_frees_its_sequences(
    service: Service, path: str, body: dict[str, Any]
) -> None:
    service.on_loop(service.engine.gate.clear)
    with pytest.raises(httpx.ReadTimeout):
        service.post(path, body, timeout=0.1)
    service.wait_until(lambda: service.engine.num_running == 0)
    assert service.engine.num_aborted >= 1
    service.wait_until(lambda: not service.registry.in_flight.handlers)


def test_draining_ends_what_is_in_flight_and_refuses_the_rest(service: Service) -> None:
    service.engine.free_tokens = 2
    service.on_loop(service.engine.gate.clear)
    with service.client.stream("POST", "/v1/generate", json=GENERATE) as response:
        lines = response.iter_lines()
        next(lines)
        draining = asyncio.run_coroutine_threadsafe(service.registry.in_flight.drain(10), service._loop)
        service.wait_until(lambda: service.registry.in_flight.is_draining)
        refused = service.post("/v1/generate", GENERATE)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "draining")
        assert service.client.get("/ready").status_code == 503
        assert service.client.get("/health").status_code == 200
        service.on_loop(service.engine.gate.set)
        assert list(lines)[-2] == "data: [DONE]"
    draining.result(timeout=10)


def test_the_drain_limit_cuts_off_with_an_error(service: Service) -> None:
    service.engine.free_tokens = 2
    service.on_loop(service.engine.gate.clear)
    with service.client.stream("POST", "/v1/generate", json=GENERATE) as response:
        iterator = events(response)
        next(iterator)
        asyncio.run_coroutine_threadsafe(service.registry.in_flight.drain(0.01), service._loop).result(
            timeout=10
        )
        assert list(iterator)[-1]["error"]["code"] == "draining"
    assert service.engine.num_running == 0
