"""Bodies that no field's own check would see through: deep, not quite JSON, not quite text."""

import contextlib
import json
from typing import Any

import pytest

from app.api.body import MAX_NESTING, check_json, read_fields
from app.errors import InvalidRequest
from tests.api.conftest import Service
from tests.api.test_errors import fault

IS_JSON = {"Content-Type": "application/json"}
ROUTES = ("/v1/generate", "/v1/completions", "/v1/embeddings", "/v1/classify", "/v1/qa", "/v1/translate")


def nested(depth: int, *, mixed: bool = False) -> bytes:
    pairs = [(b'{"a":', b"}"), (b"[", b"]")] if mixed else [(b"[", b"]")]
    opened = b"".join(pairs[i % len(pairs)][0] for i in range(depth))
    closed = b"".join(pairs[i % len(pairs)][1] for i in reversed(range(depth)))
    return opened + b"1" + closed


def refusal(body: bytes) -> InvalidRequest:
    with pytest.raises(InvalidRequest) as refused:
        check_json(body)
    return refused.value


@pytest.mark.parametrize("mixed", [False, True])
def test_nesting_has_a_limit(*, mixed: bool) -> None:
    check_json(nested(MAX_NESTING, mixed=mixed))
    assert str(MAX_NESTING) in refusal(nested(MAX_NESTING + 1, mixed=mixed)).message
    assert str(MAX_NESTING) in refusal(b"[[]," + nested(MAX_NESTING, mixed=mixed) + b"]").message


def test_brackets_in_texts_are_no_nesting() -> None:
    for text in ("[" * 1000, '\\"' + "{" * 1000, "\\\\", '"' * 300 + "[" * 300):
        check_json(json.dumps({"prompt": text, "more": [[text] * 200]}).encode())
    check_json(b"[[]" + b",[]" * 5000 + b"]")
    hidden = b'{"a": "\\\\", "b": ' + nested(MAX_NESTING + 1) + b"}"
    assert refusal(hidden).code == "invalid_json"


@pytest.mark.timeout(60)
def test_a_check_takes_linear_time() -> None:
    """Quotes and brackets of every kind; quadratic would be hours."""
    size = 4_000_000
    for body in (b'"' + b'\\"' * size, b'"\\' * size, b"[" * size + b"]" * size, b"[]" * size, b'["' * size):
        with contextlib.suppress(InvalidRequest):
            check_json(body)


@pytest.mark.parametrize("path", ROUTES)
@pytest.mark.parametrize("depth", [129, 500, 900, 990, 50_000])
@pytest.mark.parametrize("field", ["json_schema", "prompt", "metadata", "x"])
def test_deep_bodies_are_a_400(shared: Service, path: str, depth: int, field: str) -> None:
    schema = b'{"properties":' * depth + b"{}" + b"}" * depth
    for deep in (nested(depth), schema, b"[" * depth):
        body = b'{"prompt": "a", "%s": %s}' % (field.encode(), deep)
        response = shared.client.post(path, content=body, headers=IS_JSON)
        assert (response.status_code, fault(response)["code"]) == (400, "invalid_json")


def test_schemas_as_deep_as_the_limit_are_answered(shared: Service) -> None:
    schema: dict[str, Any] = {}
    for _ in range(MAX_NESTING - 2):
        schema = {"not": schema}
    answer = shared.post("/v1/generate", {"prompt": "a", "max_tokens": 1, "json_schema": schema})
    assert answer.status_code == 200


@pytest.mark.parametrize(
    ("value", "param"),
    [
        (b'"\\ud800"', "prompt"),
        (b'"\\uDC00\\ud800"', "prompt"),
        (b'["a", "\\udfff"]', "prompt"),
        (b'{"a": [{"\\udfff": 1}]}', "json_schema"),
        (b'{"enum": ["\\ud83d"]}', "json_schema"),
        (b'"\\ud800"', "regex"),
        (b"NaN", "temperature"),
        (b"-Infinity", "temperature"),
        (b'{"minimum": NaN}', "json_schema"),
        (b'{"minimum": 1e999}', "json_schema"),
        (b'{"minimum": %s.0}' % (b"9" * 400), "json_schema"),
        (b'{"\\ud800": 1}', "logit_bias"),
        (b'"\\ud800"', "model"),
    ],
)
def test_what_json_cannot_say_is_told_by_its_field(shared: Service, value: bytes, param: str) -> None:
    body = b'{"prompt": "a"}' if param != "prompt" else b"{}"
    content = body[:-1] + (b", " if param != "prompt" else b"") + b'"%s": %s}' % (param.encode(), value)
    response = shared.client.post("/v1/generate", content=content, headers=IS_JSON)
    assert (response.status_code, fault(response)["param"]) == (400, param)


def test_a_field_s_name_may_be_no_text_either(shared: Service) -> None:
    for content in (b'{"prompt": "a", "\\ud800": 1}', b'["\\ud800"]', b'"\\ud800"', b"NaN"):
        response = shared.client.post("/v1/generate", content=content, headers=IS_JSON)
        assert (response.status_code, fault(response)["param"]) == (400, None)


def test_whole_pairs_and_escaped_escapes_are_texts(shared: Service) -> None:
    for text in (b"\\ud83d\\ude00", b"\\\\ud800", b"NaN Infinity", b"\\u00e4"):
        content = b'{"prompt": "%s", "max_tokens": 1}' % text
        response = shared.client.post("/v1/generate", content=content, headers=IS_JSON)
        assert response.status_code == 200


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "latin-1"])
def test_other_encodings_are_a_400(shared: Service, encoding: str) -> None:
    for letter in "äa" if encoding != "latin-1" else "ä":
        content = f'{{"prompt": "{letter}"}}'.encode(encoding)
        response = shared.client.post("/v1/generate", content=content, headers=IS_JSON)
        assert (response.status_code, fault(response)["code"]) == (400, "invalid_json")


def test_of_equal_keys_the_last_one_counts(shared: Service) -> None:
    content = b'{"prompt": 5, "prompt": "a", "max_tokens": 9, "max_tokens": 1}'
    response = shared.client.post("/v1/generate", content=content, headers=IS_JSON)
    assert response.json()["usage"]["completion_tokens"] == 1
    assert read_fields(b'{"api_key": "a", "api_key": "b"}', "application/json") == {"api_key": "b"}
    assert read_fields(b"api_key=a&api_key=b", "application/x-www-form-urlencoded") == {"api_key": "b"}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("seed", 10**30),
        ("max_tokens", 10**30),
        ("logit_bias", {str(i): 1 for i in range(1025)}),
        ("logit_bias", {"9" * 400: 1}),
        ("stop", ["a"] * 17),
        ("stop", ["a" * 257]),
        ("stop_token_ids", [10**30]),
        ("logprobs", 21),
        ("prompt_logprobs", 21),
        ("n", 65),
        ("best_of", 65),
        ("forced_bos_token", 10**30),
        ("timeout", 0),
        ("prompt", ["a"] * 2049),
        ("priority", 11),
        ("priority", 10**30),
        ("top_k", 10**30),
        ("repetition_penalty", 1e308),
    ],
)
def test_caps_hold(shared: Service, field: str, value: object) -> None:
    response = shared.post("/v1/generate", {"prompt": "a", "max_tokens": 2} | {field: value})
    assert (response.status_code, fault(response)["param"]) == (400, field)


def test_numbers_too_long_to_read_are_a_400(shared: Service) -> None:
    content = b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}"
    response = shared.client.post("/v1/generate", content=content, headers=IS_JSON)
    assert response.status_code == 400
    assert fault(response)["type"] == "invalid_request_error"
