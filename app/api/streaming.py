"""Server-sent events: `data: …`, a ping in silence, an error event where the work fails, `[DONE]` at the end."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from app.api.call import Call
from app.api.errors import encode_json, error_event
from app.api.reply import Reply
from app.errors import InternalError, QuartetError

PING_SECONDS = 15.0
HEAD_SECONDS = 10.0
"""So long the first event is waited for before the head goes out; until then a refusal still has its own status."""

_PING = b": ping\n\n"
_DONE = b"data: [DONE]\n\n"
_HEAD = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]
_log = logging.getLogger("quartet.errors")

Events = AsyncGenerator[bytes]
"""Each item is one event or several, ready to be sent: what is there at one moment."""


def event(content: dict[str, Any]) -> bytes:
    """One event."""
    return b"data: %b\n\n" % encode_json(content)


class EventStream(Response):
    """Sends the events of a generator as they come; made by `begin`, which waits for the first one."""

    media_type = "text/event-stream"

    def __init__(self, events: Events, first: "asyncio.Future[bytes]", call: Call) -> None:
        super().__init__()
        self._events = events
        self._first = first
        self._call = call
        self._last_sent = 0.0

    @classmethod
    async def begin(cls, events: Events, call: Call) -> "EventStream":
        """Raises what the generator raises before its first event."""
        first = asyncio.ensure_future(anext(events))
        try:
            await asyncio.wait([first], timeout=HEAD_SECONDS)
            if first.done():
                first.result()
        except BaseException:
            await _close(events, first)
            raise
        return cls(events, first, call)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        pinger: asyncio.Task[None] | None = None
        try:
            await send({"type": "http.response.start", "status": 200, "headers": _HEAD})
            # The framework's layers look at nothing but the head: what follows goes around them,
            reply: Reply = scope["state"]["reply"]
            send = reply.send
            self._last_sent = time.monotonic()
            pinger = asyncio.create_task(self._ping(send))
            # and comes in a task of its own, so that an event wakes none of them.
            end = await asyncio.create_task(self._send_events(send))
            pinger.cancel()
            await send({"type": "http.response.body", "body": end, "more_body": False})
        finally:
            if pinger is not None:
                pinger.cancel()
            await _close(self._events, self._first)

    async def _send_events(self, send: Send) -> bytes:
        """Returns what ends the stream: the done mark, or the error event."""
        try:
            body = await self._first
            while True:
                await send({"type": "http.response.body", "body": body, "more_body": True})
                self._last_sent = time.monotonic()
                body = await anext(self._events)
        except StopAsyncIteration:
            return _DONE
        except QuartetError as error:
            self._call.failure = error
        except Exception:
            _log.exception("internal error in a stream")
            self._call.failure = InternalError("internal error")
        return error_event(self._call.failure, self._call)

    async def _ping(self, send: Send) -> None:
        while True:
            silence = time.monotonic() - self._last_sent
            if silence >= PING_SECONDS:
                await send({"type": "http.response.body", "body": _PING, "more_body": True})
                self._last_sent, silence = time.monotonic(), 0.0
            await asyncio.sleep(PING_SECONDS - silence)


async def _close(events: Events, first: "asyncio.Future[bytes]") -> None:
    """Ends the generator wherever it is, which aborts its sequences."""
    if not first.done():
        first.cancel()
        await asyncio.wait([first])
    elif not first.cancelled():
        first.exception()
    await events.aclose()
