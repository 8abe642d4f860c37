"""The OpenAPI description, and the page at /docs that shows it and sends its examples, with no part from elsewhere."""

from collections.abc import Callable
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Response
from fastapi.openapi.utils import get_openapi

from app.api.dialects import Dialect, dialect_of

_ERRORS: dict[Dialect, dict[str, Any]] = {
    "openai": {
        "type": "object",
        "required": ["error"],
        "properties": {
            "error": {
                "type": "object",
                "required": ["message", "type", "param", "code"],
                "properties": {
                    "message": {"type": "string"},
                    "type": {"type": "string"},
                    "param": {"type": ["string", "null"]},
                    "code": {"type": ["string", "null"]},
                },
            }
        },
    },
    "huggingface": {
        "type": "object",
        "required": ["error", "error_type"],
        "properties": {
            "error": {"type": "string"},
            "error_type": {"enum": ["validation", "generation", "overloaded", "incomplete_generation"]},
        },
    },
    "libretranslate": {
        "type": "object",
        "required": ["error"],
        "properties": {"error": {"type": "string"}},
    },
}
_ERROR_NAMES: dict[Dialect, str] = {
    "openai": "Error",
    "huggingface": "HuggingFaceError",
    "libretranslate": "LibreTranslateError",
}
_STATUSES = {
    "400": "The request cannot be served as it is",
    "401": "A key is needed, or this one is not known",
    "403": "The key lacks the scope",
    "404": "Unknown model",
    "413": "The body is over the limit",
    "415": "The body is not JSON",
    "429": "The queue is full, or the key's minute is used up; Retry-After says when to come back",
    "500": "Our fault",
    "503": "Loading, draining, or the engine is being started again",
    "504": "The request's deadline passed",
}


def describe(app: FastAPI) -> Callable[[], dict[str, Any]]:
    """FastAPI's description with our error shapes in place of its own; made once, when first asked for."""

    def openapi() -> dict[str, Any]:
        if app.openapi_schema is None:
            schema = get_openapi(
                title=app.title, version=app.version, description=app.description, routes=app.routes
            )
            schemas = schema.setdefault("components", {}).setdefault("schemas", {})
            for unused in ("HTTPValidationError", "ValidationError"):
                schemas.pop(unused, None)
            for dialect, name in _ERROR_NAMES.items():
                schemas[name] = _ERRORS[dialect]
            for path, operations in schema["paths"].items():
                for operation in operations.values():
                    _set_errors(operation, _ERROR_NAMES[dialect_of(path)])
            app.openapi_schema = schema
        return app.openapi_schema

    return openapi


def _set_errors(operation: dict[str, Any], error: str) -> None:
    operation["responses"].pop("422", None)
    body = {"application/json": {"schema": {"$ref": f"#/components/schemas/{error}"}}}
    statuses = _STATUSES if "requestBody" in operation else {}
    if "parameters" in operation:
        statuses = {"404": _STATUSES["404"]} | statuses
    for status, text in statuses.items():
        operation["responses"][status] = {"description": text, "content": body}


def docs_page() -> Response:
    """The page of /docs."""
    page = files("app.api").joinpath("ui/docs.html").read_text(encoding="utf-8")
    return Response(page, media_type="text/html; charset=utf-8")
