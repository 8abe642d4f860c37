"""A request's body: read within bounds, and, where it is JSON, checked for what no field's own check would see."""

import asyncio
import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
from starlette.types import Receive

from app.api.errors import is_json
from app.errors import BodyTimeout, ClientClosed, InvalidRequest, PayloadTooLarge

MAX_NESTING = 128
"""Lists and objects in each other; far from what exhausts the stack of whoever walks through them."""

_DISCARD_SECONDS = 2.0
_FORM = "application/x-www-form-urlencoded"
_NOT_JSON = "the body is not valid JSON"
# Never fails once a string has begun, not even on one without an end, so that it takes linear time on any body.
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
# NaN, Infinity, numbers that may be as good as that, and halves of characters: all rare, so a second look costs little.
_SUSPICIOUS = re.compile(rb"NaN|Infinity|[eE]\+?[0-9]{3}|[0-9]{300}|\\u[dD][89a-fA-F]")
_STEPS = np.zeros(256, dtype=np.int8)
_STEPS[list(b"[{")] = 1
_STEPS[list(b"]}")] = -1


async def read_body(receive: Receive, headers: Mapping[bytes, bytes], limit: int, seconds: float) -> bytes:
    """The whole body, of `limit` bytes at most. Raises PayloadTooLarge, BodyTimeout, ClientClosed."""
    announced = headers.get(b"content-length", b"0")
    chunks: list[bytes] = []
    is_too_large = announced.isdigit() and int(announced) > limit
    size, more = 0, True
    try:
        async with asyncio.timeout(seconds):
            while more and not is_too_large:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientClosed("the client left while it sent the body")
                chunks.append(message.get("body", b""))
                size += len(chunks[-1])
                more = message.get("more_body", False)
                is_too_large = size > limit
    except TimeoutError:
        raise BodyTimeout(f"the body took longer than {seconds:g} s") from None
    if is_too_large:
        if more:
            await _discard(receive, 4 * limit)
        raise PayloadTooLarge(f"the body is over the limit of {limit} bytes")
    return b"".join(chunks)


async def _discard(receive: Receive, size: int) -> None:
    """Reads on for a moment, so that a client that is still sending gets to read the refusal."""
    try:
        async with asyncio.timeout(_DISCARD_SECONDS):
            while size > 0:
                message = await receive()
                size -= len(message.get("body", b""))
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return
    except TimeoutError:
        return


def check_json(body: bytes) -> None:
    """Raises InvalidRequest for other encodings than UTF-8, for lists and objects more than MAX_NESTING deep, for
    numbers that are not finite, and for lone surrogates, which are no characters.

    All else that is wrong is told where the body is parsed. Of equal keys the last one counts.
    """
    try:
        body.decode("utf-8")
    except UnicodeDecodeError:
        raise InvalidRequest("the body is not in UTF-8", code="invalid_json") from None
    if b"\0" in body:  # a sign of UTF-16 for the parser, and never part of JSON in UTF-8
        raise InvalidRequest(_NOT_JSON, code="invalid_json")
    if body.count(b"[") + body.count(b"{") > MAX_NESTING and _depth(body) > MAX_NESTING:
        raise InvalidRequest(f"the body is nested more than {MAX_NESTING} deep", code="invalid_json")
    if _SUSPICIOUS.search(body):
        _check_values(body)


def _depth(body: bytes) -> int:
    structure = _STRING.sub(b"", body)
    depths = np.cumsum(_STEPS[np.frombuffer(structure, np.uint8)], dtype=np.int32)
    return int(depths.max(initial=0))


def _check_values(body: bytes) -> None:
    """Names the field that has what JSON has not: it could not be written again."""
    try:
        value = json.loads(body)
    except ValueError:
        return
    for name, part in value.items() if isinstance(value, dict) else [("", value)]:
        param = name if name and name.isprintable() else None
        try:
            json.dumps([name, part], ensure_ascii=False, allow_nan=False).encode("utf-8")
        except UnicodeEncodeError:
            fault = "has a lone surrogate, which is not a character"
            raise InvalidRequest(f"{param or 'the body'} {fault}", param) from None
        except ValueError:
            raise InvalidRequest(f"{param or 'the body'} must be finite", param) from None


def read_fields(body: bytes, content_type: str) -> dict[str, Any]:
    """The fields of a JSON object or a form; empty for all else. Of equal names the last one counts."""
    try:
        if is_json(content_type):
            value = json.loads(body)
            return value if isinstance(value, dict) else {}
        if content_type.partition(";")[0].strip().lower() == _FORM:
            return dict(parse_qsl(body.decode("utf-8"), keep_blank_values=True))
    except (ValueError, RecursionError):
        pass
    return {}
