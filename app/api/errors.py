"""The one place that turns errors into statuses, headers and bodies; the framework's own shapes never get out."""

import math
import re
from collections.abc import Mapping
from typing import Any

import msgspec
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from app.api.call import Call
from app.errors import (
    AuthenticationError,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    Overloaded,
    QuartetError,
    RequestError,
    RouteNotFound,
    Unavailable,
    UnsupportedMediaType,
)

encode_json = msgspec.json.Encoder().encode
JSON = "application/json"


def install_handlers(app: FastAPI) -> None:
    """Answers for everything that a route or the framework raises on purpose; the rest is the gate's."""
    app.add_exception_handler(QuartetError, _handle_quartet)
    app.add_exception_handler(RequestValidationError, _handle_validation)
    app.add_exception_handler(HTTPException, _handle_http)


def error_body(error: QuartetError, call: Call, *, is_cut_off: bool = False) -> dict[str, Any]:
    """What the call's clients expect: OpenAI's `{"error": {message, type, param, code}}`, or for Hugging Face's
    `{"error": message, "error_type": type}`, for LibreTranslate's `{"error": message}`.

    Our own bugs carry the request id to look for in the log. `is_cut_off`: part of the answer went out before.
    """
    message = error.message
    if isinstance(error, InternalError):
        message = f"{message} (request {call.request_id})"
    if call.dialect != "openai":
        if error.param is not None and not re.search(rf"\b{re.escape(error.param)}\b", message):
            message = f"{error.param}: {message}"
        if call.dialect == "libretranslate":
            return {"error": message}
        return {"error": message, "error_type": _hugging_face_type(error, is_cut_off=is_cut_off)}
    return {
        "error": {"message": message, "type": error.type, "param": error.param, "code": error.code},
    }


def _hugging_face_type(error: QuartetError, *, is_cut_off: bool) -> str:
    """The word by which the client finds its exception class."""
    if isinstance(error, RequestError):
        return "validation"
    if isinstance(error, DeadlineExceeded):
        return "incomplete_generation"
    if isinstance(error, Overloaded | Unavailable):
        return "incomplete_generation" if is_cut_off else "overloaded"
    return "generation"


def error_headers(error: QuartetError) -> dict[str, str]:
    """When to come back, whether to come back at all, and with what."""
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if error.retryable is False:
        headers["x-should-retry"] = "false"
    if isinstance(error, AuthenticationError):
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def error_response(error: QuartetError, call: Call, headers: Mapping[str, str] | None = None) -> Response:
    """The whole answer."""
    return Response(
        encode_json(error_body(error, call)),
        status_code=error.status,
        headers={**error_headers(error), **(headers or {})},
        media_type=JSON,
    )


def error_event(error: QuartetError, call: Call) -> bytes:
    """The same as the last event of a stream."""
    return b"data: %b\n\n" % encode_json(error_body(error, call, is_cut_off=True))


async def _handle_quartet(request: Request, error: Exception) -> Response:
    assert isinstance(error, QuartetError)
    return _answer(request, error)


async def _handle_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    fault = error.errors()[0]
    if fault["loc"][0] == "body" and not is_json(request.headers.get("content-type")):
        return _answer(
            request, UnsupportedMediaType("send the body as JSON, with Content-Type: application/json")
        )
    return _answer(request, _invalid(fault))


async def _handle_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return _answer(request, route_not_found(request.url.path))
    if error.status_code == 405:
        allow = (error.headers or {}).get("Allow", "")
        fault = MethodNotAllowed(f"{request.url.path} takes {allow}, not {request.method}")
        return _answer(request, fault, {"Allow": allow})
    if error.status_code == 400:
        return _answer(request, InvalidRequest("the body is not valid JSON", code="invalid_json"))
    known = RequestError(str(error.detail))
    known.status = error.status_code
    return _answer(request, known)


def _answer(request: Request, error: QuartetError, headers: Mapping[str, str] | None = None) -> Response:
    call: Call = request.state.call
    call.failure = error
    return error_response(error, call, headers)


def route_not_found(path: str) -> RouteNotFound:
    """The same words whether the router finds no route or one that is not to be seen."""
    return RouteNotFound(f"there is no {path[:200]}; /docs lists the routes")


def is_json(content_type: str | None) -> bool:
    """Whether a Content-Type header names JSON."""
    media = (content_type or "").partition(";")[0].strip().lower()
    return media == JSON or (media.startswith("application/") and media.endswith("+json"))


def _invalid(fault: Mapping[str, Any]) -> InvalidRequest:
    """The first thing that is wrong, by the name of its field; the value itself is not told back."""
    # The first part says body or query; one in brackets, which of several shapes was looked for.
    where = [str(part) for part in fault["loc"][1:] if not str(part).startswith("(")]
    kind = fault["type"]
    if kind == "json_invalid":
        return InvalidRequest("the body is not valid JSON", code="invalid_json")
    if not where:
        return InvalidRequest("the body must be a JSON object", code="invalid_type")
    param = where[0]
    if kind == "extra_forbidden":
        return InvalidRequest(
            f"unknown parameter {'.'.join(where)!r}"[:200], param[:100], "unknown_parameter"
        )
    if kind == "missing":
        return InvalidRequest(f"{'.'.join(where)} is required", param, "missing_parameter")
    path = ".".join(part for part in where if part.isidentifier() or part.isdigit())[:100]
    code = "unsupported_parameter" if kind == "not_served_yet" else None
    return InvalidRequest(f"{path}: {_lowered(fault['msg'])}", param, code)


def _lowered(message: str) -> str:
    message = message.removeprefix("Input ").removeprefix("Value error, ")
    return message[:1].lower() + message[1:]
