"""The contract's error table over a real socket, one test a row."""

import json
import socket
import time
from typing import Any

import httpx
import pytest

from app.errors import EngineFailed, Overloaded, Unavailable
from tests.api.conftest import Service

GENERATE = {"prompt": "Hi", "max_tokens": 4}


def fault(response: httpx.Response) -> dict[str, Any]:
    """The error of a body that has the contract's shape and nothing else."""
    body = response.json()
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert response.headers["x-request-id"]
    error: dict[str, Any] = body["error"]
    assert error["message"]
    return error


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/generate", {"prompt": 5}, "prompt"),
        ("/v1/generate", {}, "prompt"),
        ("/v1/generate", {"prompt": []}, "prompt"),
        ("/v1/generate", {"prompt": ["a", 1]}, "prompt"),
        ("/v1/generate", {"prompt": ["a"] * 2049}, "prompt"),
        ("/v1/generate", {"prompt": ""}, "prompt"),
        ("/v1/generate", GENERATE | {"max_tokens": True}, "max_tokens"),
        ("/v1/generate", GENERATE | {"max_tokens": "4"}, "max_tokens"),
        ("/v1/generate", GENERATE | {"max_tokens": 4.5}, "max_tokens"),
        ("/v1/generate", GENERATE | {"max_tokens": 0}, "max_tokens"),
        ("/v1/generate", GENERATE | {"max_tokens": 10**6}, "max_tokens"),
        ("/v1/generate", GENERATE | {"min_tokens": 5}, "min_tokens"),
        ("/v1/generate", {"prompt": "Hi", "min_tokens": 10**6}, "min_tokens"),
        ("/v1/generate", {"prompt": "x" * 600}, "prompt"),
        ("/v1/generate", GENERATE | {"temperature": -0.1}, "temperature"),
        ("/v1/generate", GENERATE | {"temperature": True}, "temperature"),
        ("/v1/generate", GENERATE | {"top_p": 0}, "top_p"),
        ("/v1/generate", GENERATE | {"top_k": -2}, "top_k"),
        ("/v1/generate", GENERATE | {"repetition_penalty": 0}, "repetition_penalty"),
        *(
            (path, GENERATE | {"no_repeat_ngram_size": value}, "no_repeat_ngram_size")
            for path in ("/v1/generate", "/v1/completions")
            for value in (-1, 65, 2.5, "3", True)
        ),
        ("/v1/translate", {"text": "Hi", "target": "de", "no_repeat_ngram_size": -1}, "no_repeat_ngram_size"),
        *(
            ("/v1/generate", GENERATE | {"num_beams": value}, "num_beams")
            for value in (0, 65, 2.5, "4", True)
        ),
        ("/v1/generate", GENERATE | {"num_beams": 2, "temperature": 0.5}, "num_beams"),
        ("/v1/generate", GENERATE | {"num_beams": 9, "n": 8}, "num_beams"),
        ("/v1/generate", GENERATE | {"num_beams": 2, "n": 3}, "n"),
        ("/v1/generate", GENERATE | {"num_beams": 2, "n": 2, "stream": True}, "stream"),
        ("/v1/generate", GENERATE | {"n": 3, "best_of": 2}, "best_of"),
        ("/v1/generate", GENERATE | {"n": 3, "best_of": 30}, "best_of"),
        ("/v1/generate", GENERATE | {"best_of": 2, "num_beams": 4}, "best_of"),
        ("/v1/generate", GENERATE | {"best_of": 2, "stream": True}, "best_of"),
        ("/v1/generate", GENERATE | {"length_penalty": 11}, "length_penalty"),
        ("/v1/generate", GENERATE | {"early_stopping": "always"}, "early_stopping"),
        ("/v1/generate", GENERATE | {"early_stopping": 1}, "early_stopping"),
        *(
            (path, GENERATE | {field: value}, field)
            for path in ("/v1/generate", "/v1/completions")
            for field, value in (
                ("json_schema", "{}"),
                ("json_schema", True),
                ("json_schema", {"enum": ["x" * 1000] * 100}),
                ("regex", 5),
                ("regex", "a" * 70_000),
                ("choice", "a"),
                ("choice", []),
                ("choice", ["a", ""]),
                ("choice", ["a", 1]),
                ("grammar", ["start"]),
            )
        ),
        ("/v1/generate", GENERATE | {"regex": "a", "grammar": "start: /a/"}, "grammar"),
        ("/v1/generate", GENERATE | {"response_format": {"type": "json_object"}}, "response_format"),
        *(
            ("/v1/completions", GENERATE | {"response_format": value}, "response_format")
            for value in (
                "json_object",
                {},
                {"type": "xml"},
                {"type": "json_schema"},
                {"type": "json_schema", "json_schema": {"name": "x"}},
                {"type": "json_schema", "json_schema": {"schema": {}, "more": 1}},
                {"type": "json_object", "json_schema": {"schema": {}}},
                {"type": "json_schema", "json_schema": {"schema": {}}, "value": {}},
            )
        ),
        ("/v1/completions", GENERATE | {"response_format": {"type": "json_object"}, "regex": "a"}, "regex"),
        ("/v1/generate", GENERATE | {"seed": 2**70}, "seed"),
        ("/v1/generate", GENERATE | {"stop": ["x" * 257]}, "stop"),
        ("/v1/generate", GENERATE | {"stop": [""]}, "stop"),
        ("/v1/generate", GENERATE | {"stop": 5}, "stop"),
        ("/v1/generate", GENERATE | {"stop_token_ids": [10**6]}, "stop_token_ids"),
        ("/v1/generate", GENERATE | {"logit_bias": {"a": 1}}, "logit_bias"),
        ("/v1/generate", GENERATE | {"logit_bias": {"5": 101}}, "logit_bias"),
        ("/v1/generate", GENERATE | {"logprobs": 21}, "logprobs"),
        ("/v1/generate", GENERATE | {"n": 65}, "n"),
        ("/v1/generate", GENERATE | {"timeout": 0}, "timeout"),
        ("/v1/generate", GENERATE | {"stream": True, "n": 2}, "stream"),
        ("/v1/generate", GENERATE | {"max_token": 4}, "max_token"),
        ("/v1/generate", GENERATE | {"priority": 11}, "priority"),
        ("/v1/generate", GENERATE | {"forced_bos_token": 5}, "forced_bos_token"),
        ("/v1/translate", {"text": "Hi", "target": "de", "forced_bos_token": "de_DE"}, "forced_bos_token"),
        ("/v1/translate", {"text": "Hi", "target": "de", "forced_bos_token": 10**6}, "forced_bos_token"),
        ("/v1/translate", {"text": "Hi", "target": "xx"}, "target"),
        ("/v1/translate", {"text": "Hi", "target": "de", "source": "fr"}, "source"),
        ("/v1/translate", {"text": "Hi"}, "target"),
        ("/v1/translate", {"text": "x" * 200, "target": "de", "split_sentences": False}, "text"),
        *(
            ("/v1/classify", {"text": "Hi", "labels": labels}, "labels")
            for labels in ([], "a, b", ["a", ""], ["a", " \n"], ["a", 1], ["a"] * 2049, ["x" * 100, "b"])
        ),
        (
            "/v1/classify",
            {"text": "Hi", "labels": ["a"], "hypothesis_template": "It is."},
            "hypothesis_template",
        ),
        ("/v1/classify", {"text": "Hi", "labels": ["a"], "hypothesis_template": 5}, "hypothesis_template"),
        ("/v1/classify", {"text": "Hi", "hypothesis_template": "It is {}."}, "hypothesis_template"),
        ("/v1/classify", {"text": ["Hi"] * 2048, "labels": ["a", "b", "c"]}, "labels"),
        ("/v1/classify", {"text": "x" * 62, "labels": ["a"]}, "text"),
        ("/v1/classify", {"text": [], "labels": ["a"]}, "text"),
        ("/v1/classify", {"text": "Hi", "labels": ["a"], "model": "mood"}, "model"),
        ("/v1/classify", {"text": "x" * 63, "labels": ["a"], "model": "sentences"}, "text"),
        ("/v1/classify", {"text": "x", "labels": ["a" * 63], "model": "sentences"}, "labels"),
        ("/v1/ner", {"text": "Hi", "aggregation": "last"}, "aggregation"),
        ("/v1/ner", {"text": "Hi", "ignore_labels": "O"}, "ignore_labels"),
        ("/v1/ner", {"text": "Hi", "stride": -1}, "stride"),
        ("/v1/ner", {"text": "Hi", "stride": 62}, "stride"),
        ("/v1/ner", {"text": "Hi", "stride": 4, "aggregation": "none"}, "stride"),
        ("/v1/ner", {"text": []}, "text"),
        ("/v1/ner", {"text": "Hi", "model": "mood"}, "model"),
        *(
            ("/v1/rerank", {"query": "a", "documents": documents}, "documents")
            for documents in ([], "a", ["a", 1], [{"title": "a"}], ["a"] * 2049, ["x" * 62])
        ),
        ("/v1/rerank", {"documents": ["a"]}, "query"),
        ("/v1/rerank", {"query": ["a"], "documents": ["a"]}, "query"),
        ("/v1/rerank", {"query": "x" * 63, "documents": ["a"], "truncate": True}, "query"),
        ("/v1/rerank", {"query": "x" * 62, "documents": ["a"], "truncate": True}, "query"),
        ("/v1/rerank", {"query": "a", "documents": ["a"], "top_n": 0}, "top_n"),
        ("/v1/rerank", {"query": "a", "documents": ["x" * 63], "model": "sentences"}, "documents"),
        ("/v1/tokenize", {"text": 5}, "text"),
        ("/v1/tokenize", {"text": "Hi", "add_special_tokens": 1}, "add_special_tokens"),
        ("/v1/tokenize", {"prompt": "Hi"}, "text"),
        *(
            ("/v1/detokenize", {"tokens": tokens}, "tokens")
            for tokens in ("a", 5, [-1], [[1], 2], [True], [10**6], [2**70], [[1, "a"]], [[1]] * 2049, None)
        ),
        ("/v1/classify", {"text": "Hi", "top_k": 0}, "top_k"),
        ("/v1/qa", {"question": "a"}, "context"),
        ("/v1/qa", {"question": "x" * 100, "context": "a"}, "question"),
        ("/v1/qa", {"inputs": []}, "inputs"),
        ("/v1/qa", {"inputs": [{"question": "a"}]}, "inputs"),
        ("/v1/fill-mask", {"text": "nothing to fill"}, "text"),
        ("/v1/embeddings", {"input": "a", "dimensions": 9}, "dimensions"),
        ("/v1/embeddings", {"input": "a", "encoding_format": "int8"}, "encoding_format"),
        ("/v1/embeddings", {"input": [[1, -1]]}, "input"),
        ("/v1/embeddings", {"input": [10**6]}, "input"),
        ("/v1/embeddings", {"input": [[]]}, "input"),
        ("/v1/completions", {"prompt": [1, 10**6]}, "prompt"),
        ("/v1/completions", {"prompt": "a", "echo": True, "logprobs": 1, "stream": True}, "stream"),
        ("/v1/generate", GENERATE | {"prompt_logprobs": 21}, "prompt_logprobs"),
        ("/v1/generate", GENERATE | {"prompt_logprobs": 0, "stream": True}, "prompt_logprobs"),
        ("/v1/generate", GENERATE | {"prompt_logprobs": 0, "num_beams": 2}, "prompt_logprobs"),
        ("/v1/translate", {"text": "Hi", "target": "de", "prompt_logprobs": 1}, "prompt_logprobs"),
        ("/v1/completions", {"prompt": "a", "tools": [{"type": "function"}]}, "tools"),
        ("/v1/completions", {"prompt": "a", "stream_options": {"include_usage": True}}, "stream_options"),
    ],
)
def test_400_names_the_field(shared: Service, path: str, body: dict[str, Any], param: str) -> None:
    response = shared.post(path, body)
    error = fault(response)
    assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("suffix", "end"),
        ("tools", [{"type": "function"}]),
    ],
)
def test_400_for_what_is_not_served_yet(shared: Service, field: str, value: object) -> None:
    error = fault(shared.post("/v1/completions", GENERATE | {field: value}))
    assert (error["param"], error["code"]) == (field, "unsupported_parameter")


def test_values_that_ask_for_nothing_pass(shared: Service) -> None:
    neutral = {"num_beams": 1, "length_penalty": 1.0, "early_stopping": False, "no_repeat_ngram_size": 0}
    nulls = dict.fromkeys(("json_schema", "regex", "choice", "grammar", "prompt_logprobs", "best_of", "seed"))
    assert shared.post("/v1/generate", GENERATE | neutral | nulls).status_code == 200


@pytest.mark.parametrize(
    "content",
    [
        b"{",
        b"",
        b"\xff\xfe",
        b'{"prompt": "\\ud800"}',
        b'{"prompt": NaN}',
        b"[" * 100_000,
        b"[1]",
        b'"x"',
        b"null",
    ],
)
def test_400_for_what_is_not_a_json_object(shared: Service, content: bytes) -> None:
    response = shared.client.post(
        "/v1/generate", content=content, headers={"Content-Type": "application/json"}
    )
    assert (response.status_code, fault(response)["type"]) == (400, "invalid_request_error")


def test_nan_and_infinity_are_out_of_range(shared: Service) -> None:
    for value in ("NaN", "Infinity", "1e999"):
        content = f'{{"prompt": "a", "temperature": {value}}}'
        response = shared.client.post(
            "/v1/generate", content=content, headers={"Content-Type": "application/json"}
        )
        assert (response.status_code, fault(response)["param"]) == (400, "temperature")


def test_400_unsupported_task(shared: Service) -> None:
    error = fault(shared.post("/v1/classify", {"text": "a", "model": "writer"}))
    assert (error["code"], error["param"]) == ("unsupported_task", "model")
    assert "generate" in error["message"]


def test_404_unknown_model_lists_the_served_ones(shared: Service) -> None:
    response = shared.post("/v1/generate", GENERATE | {"model": "gpt"})
    error = fault(response)
    assert (response.status_code, error["type"], error["code"]) == (404, "not_found_error", "model_not_found")
    assert "writer" in error["message"]
    assert fault(shared.client.get("/v1/models/gpt"))["code"] == "model_not_found"


def test_404_unknown_route(shared: Service) -> None:
    response = shared.client.get("/v2/nothing")
    assert (response.status_code, fault(response)["type"]) == (404, "not_found_error")
    assert shared.post("/nothing", {}).status_code == 404


def test_405_names_the_method(shared: Service) -> None:
    response = shared.client.get("/v1/generate")
    assert response.status_code == 405
    assert response.headers["allow"] == "POST"
    assert fault(response)["code"] == "method_not_allowed"


def test_408_a_body_that_does_not_come(shared: Service) -> None:
    with socket.create_connection(("127.0.0.1", shared.port), timeout=10) as connection:
        head = b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{"
        connection.sendall(head)
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 408")
    assert b'"code":"body_timeout"' in answer


@pytest.mark.parametrize("announced", [True, False])
def test_413_a_body_over_the_limit(shared: Service, *, announced: bool) -> None:
    body = json.dumps({"prompt": "x" * (1 << 20)}).encode()
    content = body if announced else iter([body[:1000], body[1000:]])
    response = shared.client.post(
        "/v1/generate", content=content, headers={"Content-Type": "application/json"}
    )
    assert (response.status_code, fault(response)["code"]) == (413, "payload_too_large")
    assert shared.client.get("/health").status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", None])
def test_415_not_json(shared: Service, kind: str | None) -> None:
    headers = {"Content-Type": kind} if kind else {}
    response = shared.client.post("/v1/generate", content=b'{"prompt": "a"}', headers=headers)
    assert (response.status_code, fault(response)["code"]) == (415, "unsupported_media_type")


def test_429_tells_when_to_come_back(service: Service) -> None:
    service.engine.failure = Overloaded("the queue is full", retry_after=2.5)
    for body in (GENERATE, GENERATE | {"stream": True}):
        response = service.post("/v1/generate", body)
        assert (response.status_code, fault(response)["type"]) == (429, "overloaded_error")
        assert response.headers["retry-after"] == "3"
    metrics = service.client.get("/metrics").text
    assert 'quartet_rejected_total{reason="queue_full"} 2.0' in metrics
    assert 'outcome="overloaded",task="generate"} 2.0' in metrics


def test_429_comes_before_anything_is_read_where_the_queue_is_full(service: Service) -> None:
    service.engine.is_full = True
    for path in ("/v1/generate", "/v1/classify", "/translate", "/models/writer"):
        response = service.post(path, {"what": "is not even looked at"})
        assert (response.status_code, response.headers["retry-after"]) == (429, "2")
    assert service.post("/v1/tokenize", {"model": "writer", "text": "Hi"}).status_code == 200
    assert service.client.get("/health").status_code == 200


def test_500_has_the_request_id_and_no_trace(service: Service) -> None:
    service.engine.failure = ZeroDivisionError("secret detail")
    response = service.post("/v1/generate", GENERATE, headers={"X-Request-ID": "abc-1"})
    error = fault(response)
    assert (response.status_code, error["type"]) == (500, "internal_error")
    assert "abc-1" in error["message"]
    assert "secret" not in response.text


def test_500_when_the_engine_could_not(service: Service) -> None:
    service.engine.failure = EngineFailed("the step failed")
    assert fault(service.post("/v1/classify", {"text": "a"}))["code"] == "engine_failed"


def test_503_while_the_engine_is_away(service: Service) -> None:
    service.engine.failure = Unavailable("the engine is being started again", retry_after=1.0)
    response = service.post("/v1/generate", GENERATE)
    assert (response.status_code, fault(response)["type"]) == (503, "unavailable_error")
    assert response.headers["retry-after"] == "1"


def test_what_comes_while_the_engine_starts_again_waits_for_it(service: Service) -> None:
    service.engine.is_ready = False
    assert service.post("/v1/generate", GENERATE).status_code == 200
    assert service.client.get("/ready").status_code == 503


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("how", ["field", "header"])
def test_504_aborts_the_work(service: Service, how: str, *, stream: bool) -> None:
    service.on_loop(service.engine.gate.clear)
    body = GENERATE | {"stream": stream} | ({"timeout": 0.05} if how == "field" else {})
    headers = {"X-Request-Timeout": "0.05"} if how == "header" else {}
    start = time.monotonic()
    response = service.post("/v1/generate", body, headers=headers)
    assert time.monotonic() - start < 5
    assert (response.status_code, fault(response)["type"]) == (504, "timeout_error")
    assert response.headers["x-should-retry"] == "false"
    service.wait_until(lambda: service.engine.num_running == 0)
    assert service.engine.num_aborted == 1


def test_a_bad_timeout_header_is_told(shared: Service) -> None:
    for value in ("soon", "0", "nan", "inf"):
        response = shared.post("/v1/generate", GENERATE, headers={"X-Request-Timeout": value})
        assert (response.status_code, fault(response)["param"]) == (400, "X-Request-Timeout")


def test_request_ids_are_echoed_or_made(shared: Service) -> None:
    for path in ("/health", "/v1/generate", "/nothing"):
        assert (
            shared.client.get(path, headers={"X-Request-ID": "My.id_1-2"}).headers["x-request-id"]
            == "My.id_1-2"
        )
        for bad in ("a b", "x" * 129, "a/b"):
            made = shared.client.get(path, headers={"X-Request-ID": bad}).headers["x-request-id"]
            assert made != bad
            assert len(made) == 32


def test_framework_shapes_never_appear(shared: Service) -> None:
    for response in (
        shared.client.get("/v1/generate"),
        shared.client.get("/x"),
        shared.post("/v1/qa", {}),
        shared.client.request("PATCH", "/v1/generate"),
    ):
        assert "detail" not in response.json()
