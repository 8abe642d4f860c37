"""Each family of clients reads errors in its own shape, whoever refuses the request: the gate, the router, a route."""

from typing import Any

import pytest

from app.api.call import Call
from app.api.dialects import Dialect, dialect_of
from app.api.errors import error_body, error_event
from app.errors import (
    DeadlineExceeded,
    EngineFailed,
    InternalError,
    InvalidRequest,
    ModelNotFound,
    Overloaded,
    QuartetError,
    Unavailable,
)
from tests.api.conftest import LIMITS, Service

FAMILIES: list[tuple[str, Dialect]] = [
    ("/v1/generate", "openai"),
    ("/v1/models/a/b", "openai"),
    ("/nowhere", "openai"),
    ("/", "huggingface"),
    ("/pipeline/translation", "huggingface"),
    ("/models/org/name", "huggingface"),
    ("/models/org/name/pipeline/fill-mask", "huggingface"),
    ("/translate", "libretranslate"),
    ("/detect", "libretranslate"),
]


@pytest.mark.parametrize(("path", "dialect"), FAMILIES)
def test_the_path_alone_decides(path: str, dialect: Dialect) -> None:
    assert dialect_of(path) == dialect


def check_shape(body: dict[str, Any], dialect: Dialect) -> None:
    if dialect == "openai":
        assert set(body) == {"error"}
        assert set(body["error"]) == {"message", "type", "param", "code"}
    elif dialect == "huggingface":
        assert set(body) == {"error", "error_type"}
        assert isinstance(body["error"], str)
        assert body["error_type"] == "validation"
    else:
        assert set(body) == {"error"}
        assert isinstance(body["error"], str)


@pytest.mark.parametrize(("path", "dialect"), FAMILIES)
def test_what_the_gate_and_the_router_refuse(shared: Service, path: str, dialect: Dialect) -> None:
    too_large = shared.client.post(path, content=b" " * (LIMITS.max_body_bytes + 1))
    assert too_large.status_code == 413
    check_shape(too_large.json(), dialect)
    odd_timeout = shared.client.post(path, headers={"X-Request-Timeout": "soon"})
    assert odd_timeout.status_code == 400
    check_shape(odd_timeout.json(), dialect)
    assert "X-Request-Timeout" in odd_timeout.text
    wrong_method = shared.client.put(path)
    assert wrong_method.status_code in (404, 405)
    check_shape(wrong_method.json(), dialect)


def body_of(error: QuartetError, dialect: Dialect) -> dict[str, Any]:
    return error_body(error, Call("abc", 1.0, dialect))


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (InvalidRequest("no"), "validation"),
        (ModelNotFound("no"), "validation"),
        (Overloaded("later"), "overloaded"),
        (Unavailable("later"), "overloaded"),
        (DeadlineExceeded("late"), "incomplete_generation"),
        (EngineFailed("broken"), "generation"),
        (InternalError("broken"), "generation"),
    ],
)
def test_hugging_face_s_words(error: QuartetError, kind: str) -> None:
    assert body_of(error, "huggingface")["error_type"] == kind


def test_a_text_that_is_cut_off_is_incomplete() -> None:
    event = error_event(Unavailable("the service shut down"), Call("abc", 1.0, "huggingface"))
    assert event == (b'data: {"error":"the service shut down","error_type":"incomplete_generation"}\n\n')


def test_flat_messages_name_the_field_once() -> None:
    for dialect in ("huggingface", "libretranslate"):
        assert body_of(InvalidRequest("must not be empty", "inputs"), dialect)["error"] == (
            "inputs: must not be empty"
        )
        assert body_of(InvalidRequest("must be one", "n"), dialect)["error"] == "n: must be one"
        assert body_of(InvalidRequest("top_k is odd", "top_k"), dialect)["error"] == "top_k is odd"


def test_our_own_bugs_carry_the_request_s_id() -> None:
    assert body_of(InternalError("broken"), "libretranslate") == {"error": "broken (request abc)"}
