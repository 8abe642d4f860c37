"""Routes that take a form as well as JSON: its fields become a JSON object before anything else looks at them."""

from collections.abc import Callable, Coroutine
from typing import Any
from urllib.parse import parse_qs

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.types import Message

from app.api.errors import JSON, encode_json
from app.errors import InvalidRequest

FORM = "application/x-www-form-urlencoded"
_MOST_FIELDS = 4096


class FormRoute(APIRoute):
    """A field that is given several times is a list; one without a value counts as left out, unless it is alone."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler, behind the conversion."""
        handle = super().get_route_handler()

        async def handle_form(request: Request) -> Response:
            kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
            return await handle(await _as_json(request) if kind == FORM else request)

        return handle_form


async def _as_json(request: Request) -> Request:
    body = encode_json(_fields(await request.body()))
    headers = [(name, value) for name, value in request.scope["headers"] if name != b"content-type"]
    # in place, since the answer to a wrong field asks the request that came whether it was JSON
    request.scope["headers"] = [*headers, (b"content-type", JSON.encode())]
    del request._headers
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        return messages.pop() if messages else await request.receive()

    return Request(request.scope, receive)


def _fields(body: bytes) -> dict[str, str | list[str]]:
    """Line breaks come as CR LF from browsers, and are LF here. Raises InvalidRequest."""
    try:
        fields = parse_qs(
            body.decode("ascii"), keep_blank_values=True, errors="strict", max_num_fields=_MOST_FIELDS
        )
    except ValueError:
        raise InvalidRequest(
            f"the body is not a form in UTF-8 of at most {_MOST_FIELDS} fields", code="invalid_form"
        ) from None
    lines = {name: [value.replace("\r\n", "\n") for value in values] for name, values in fields.items()}
    return {
        name: values if len(values) > 1 else values[0]
        for name, values in lines.items()
        if any(values) or name == "q"
    }
