"""The door that every request passes: who may enter, a body within bounds, a deadline, an eye on the client.

A plain ASGI middleware. A handler below it is cancelled when the client leaves, the deadline passes or the drain limit
is over; cancelling frees the sequences, since every engine call aborts what is cancelled.
"""

import asyncio
import json
import logging
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import security
from app.api.body import check_json, read_body, read_fields
from app.api.call import Call
from app.api.door import WITHOUT_WORK, Door, Headers, asked_by
from app.api.errors import error_event, error_response, is_json
from app.api.guard import NOBODY, Guard
from app.api.reply import Reply
from app.caller import caller
from app.errors import (
    BodyTimeout,
    ClientClosed,
    InternalError,
    InvalidRequest,
    PayloadTooLarge,
    QuartetError,
)
from app.registry import Registry

_LOGGED_CHARACTERS = 10_000
_bugs = logging.getLogger("quartet.errors")


@dataclass(frozen=True)
class Limits:
    """Bounds on one request: bytes of its body, seconds until that is read, seconds until it must be answered."""

    max_body_bytes: int
    body_timeout: float
    max_timeout: float


class Gate:
    """Wraps the application; holds the registry only to ask whether work is taken, and to count what is in flight.

    With `logs_prompts` the log shows what clients send.
    """

    def __init__(
        self, app: ASGIApp, registry: Registry, limits: Limits, guard: Guard, *, logs_prompts: bool = False
    ) -> None:
        self.app = app
        self.registry = registry
        self.limits = limits
        self.guard = guard
        self.door = Door(registry, guard, limits.max_timeout)
        self.logs_prompts = logs_prompts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the handler; whatever goes wrong ends in exactly one answer or error event."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            await self._serve(scope, receive, send)
        except QuartetError as error:
            failure = error
        except Exception:
            _bugs.exception("internal error")
            failure = InternalError("internal error")
        else:
            return
        await _answer(failure, scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        call: Call = scope["state"]["call"]
        headers, method, path = dict(scope["headers"]), scope["method"], scope["path"]
        self.guard.check_host(path, headers)
        body = await self._read(receive, headers) if self._comes_first(method, path, headers) else None
        key = self.guard.admit(call, method, path, headers, body)
        if method in WITHOUT_WORK:
            await self.app(scope, receive, send)
            return
        self.door.check(call, key, path)  # before more is spent on what will be refused
        if body is None:
            body = await self._read(receive, headers)
        self._check(call, headers, body)
        caller.set(asked_by(call, path))
        may_hurry = security.may_hurry.set(key is None or "admin" in key.scopes)
        try:
            with self.registry.in_flight.admit(asyncio.current_task()):
                await self._work(scope, _Replay(receive, body), send, call)
        finally:
            security.may_hurry.reset(may_hurry)
            self.guard.rates.charge(NOBODY if key is None else key.name, call.usage.as_dict()["total_tokens"])

    def _comes_first(self, method: str, path: str, headers: Headers) -> bool:
        """Whether the body must be read before it is known who asks."""
        return method == "POST" and self.guard.wants_body(path, headers)

    async def _read(self, receive: Receive, headers: Headers) -> bytes:
        return await read_body(receive, headers, self.limits.max_body_bytes, self.limits.body_timeout)

    def _check(self, call: Call, headers: Headers, body: bytes) -> None:
        """What can be said of any request's body and headers before a route sees them."""
        content_type = headers.get(b"content-type", b"").decode("latin-1")
        if is_json(content_type):
            check_json(body)
        if self.logs_prompts:
            fields = read_fields(body, content_type)
            fields.pop("api_key", None)
            call.texts = json.dumps(fields, ensure_ascii=False)[:_LOGGED_CHARACTERS]
        _read_timeout(call, headers)

    async def _work(self, scope: Scope, replay: "_Replay", send: Send, call: Call) -> None:
        """The handler under its deadline, with an eye on the client."""
        reply: Reply = scope["state"]["reply"]
        handler = asyncio.current_task()
        assert handler is not None

        async def watch() -> None:
            await replay.watch()
            if not reply.is_complete:
                replay.left.set()
                handler.cancel()

        watcher = asyncio.create_task(watch())
        try:
            async with asyncio.timeout(call.timeout or self.limits.max_timeout) as call.deadline:
                call.timeout = call.timeout or self.limits.max_timeout
                await self.app(scope, replay.receive, send)
        except TimeoutError:
            raise call.deadline_error() from None
        except asyncio.CancelledError:
            is_gone = replay.left.is_set()
            reason = (
                ClientClosed("the client left") if is_gone else self.registry.in_flight.drain_error(handler)
            )
            if reason is None or handler.uncancel() > 0:
                raise
            raise reason from None
        finally:
            watcher.cancel()


class _Replay:
    """What the handler receives: the body once, then news only when the client leaves."""

    def __init__(self, receive: Receive, body: bytes) -> None:
        self._receive = receive
        self._messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
        self.left = asyncio.Event()

    async def receive(self) -> Message:
        """In place of the server's own."""
        if self._messages:
            return self._messages.pop()
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def watch(self) -> None:
        """Returns when the client has left."""
        while (await self._receive())["type"] != "http.disconnect":
            pass


def _read_timeout(call: Call, headers: Headers) -> None:
    text = headers.get(b"x-request-timeout")
    if text is None:
        return
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise InvalidRequest("X-Request-Timeout must be a number of seconds above 0", "X-Request-Timeout")
    call.limit_time(seconds)


async def _answer(failure: QuartetError, scope: Scope, receive: Receive, send: Send) -> None:
    """Tells the client, unless it left: a whole answer, or the last event of a stream that had begun."""
    call: Call = scope["state"]["call"]
    reply: Reply = scope["state"]["reply"]
    call.failure = failure
    if isinstance(failure, ClientClosed):
        return
    if reply.status == 0:
        headers = {"Connection": "close"} if isinstance(failure, PayloadTooLarge | BodyTimeout) else {}
        await error_response(failure, call, headers)(scope, receive, send)
    elif reply.is_events and not reply.is_complete:
        event = error_event(failure, call)
        await send({"type": "http.response.body", "body": event, "more_body": False})
