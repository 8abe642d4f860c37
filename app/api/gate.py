"""The door that every request passes: its id, its body within bounds, its deadline, its client's presence, its end.

A plain ASGI middleware. A handler below it is cancelled when the client leaves, the deadline passes or the drain limit
is over; cancelling frees the sequences, since every engine call aborts what is cancelled.
"""

import asyncio
import logging
import re
import uuid
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import logs
from app.api.call import Call
from app.api.errors import error_event, error_response
from app.caller import Caller, caller
from app.errors import (
    BodyTimeout,
    ClientClosed,
    InternalError,
    InvalidRequest,
    PayloadTooLarge,
    QuartetError,
)
from app.metrics import Metrics
from app.registry import Registry

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_QUIET = frozenset({"/health", "/ready", "/metrics"})
_DISCARD_SECONDS = 2.0
_log = logging.getLogger("quartet.access")
_bugs = logging.getLogger("quartet.errors")


@dataclass(frozen=True)
class Limits:
    """Bounds on one request: bytes of its body, seconds until that is read, seconds until it must be answered."""

    max_body_bytes: int
    body_timeout: float
    max_timeout: float


class _Reply:
    """What has gone out: adds the request id to the head, remembers status and kind."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._header = (b"x-request-id", request_id.encode("ascii"))
        self.status = 0
        self.is_events = False
        self.is_complete = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = [*message["headers"], self._header]
            self.is_events = any(
                name == b"content-type" and value.startswith(b"text/event-stream") for name, value in headers
            )
            message = {**message, "headers": headers}
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self.is_complete = True
        await self._send(message)


class Gate:
    """Wraps the application; holds the registry only to ask whether work is taken, and to count what is in flight."""

    def __init__(self, app: ASGIApp, registry: Registry, limits: Limits) -> None:
        self.app = app
        self.registry = registry
        self.limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        call = Call(_request_id(headers), self.limits.max_timeout)
        scope.setdefault("state", {})["call"] = call
        token = logs.request_id.set(call.request_id)
        reply = _Reply(send, call.request_id)
        try:
            await self._serve(scope, receive, reply, call, headers)
        finally:
            _finish(scope, reply, call, self.registry.metrics)
            logs.request_id.reset(token)

    async def _serve(
        self, scope: Scope, receive: Receive, reply: _Reply, call: Call, headers: dict[bytes, bytes]
    ) -> None:
        """Runs the handler; whatever goes wrong ends in exactly one answer or error event."""
        failure: QuartetError | None = None
        try:
            if scope["method"] in ("GET", "HEAD", "OPTIONS"):
                await self.app(scope, receive, reply.send)
                return
            body = await self._read_body(receive, headers)
            self._read_timeout(call, headers)
            caller.set(Caller(_sender(scope)))
            with self.registry.admit(asyncio.current_task()):
                await self._work(scope, receive, reply, call, body)
        except QuartetError as error:
            failure = error
        except Exception:
            _bugs.exception("internal error")
            failure = InternalError("internal error")
        if failure is not None:
            await _answer(scope, receive, reply, call, failure)

    async def _work(self, scope: Scope, receive: Receive, reply: _Reply, call: Call, body: bytes) -> None:
        """The handler under its deadline, with an eye on the client."""
        handler = asyncio.current_task()
        assert handler is not None
        left = asyncio.Event()

        async def watch() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass
            if not reply.is_complete:
                left.set()
                handler.cancel()

        watcher = asyncio.create_task(watch())
        try:
            async with asyncio.timeout(call.timeout or self.limits.max_timeout) as call.deadline:
                call.timeout = call.timeout or self.limits.max_timeout
                await self.app(scope, _replay(body, left), reply.send)
        except TimeoutError:
            raise call.deadline_error() from None
        except asyncio.CancelledError:
            reason = ClientClosed("the client left") if left.is_set() else self.registry.drain_error(handler)
            if reason is None or handler.uncancel() > 0:
                raise
            raise reason from None
        finally:
            watcher.cancel()

    async def _read_body(self, receive: Receive, headers: dict[bytes, bytes]) -> bytes:
        """The whole body. Raises PayloadTooLarge, BodyTimeout, ClientClosed."""
        limit = self.limits.max_body_bytes
        announced = headers.get(b"content-length", b"0")
        chunks: list[bytes] = []
        is_too_large = announced.isdigit() and int(announced) > limit
        size, more = 0, True
        try:
            async with asyncio.timeout(self.limits.body_timeout):
                while more and not is_too_large:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ClientClosed("the client left while it sent the body")
                    chunks.append(message.get("body", b""))
                    size += len(chunks[-1])
                    more = message.get("more_body", False)
                    is_too_large = size > limit
        except TimeoutError:
            raise BodyTimeout(f"the body took longer than {self.limits.body_timeout:g} s") from None
        if is_too_large:
            if more:
                await _discard(receive, 4 * limit)
            raise PayloadTooLarge(f"the body is over the limit of {limit} bytes")
        return b"".join(chunks)

    @staticmethod
    def _read_timeout(call: Call, headers: dict[bytes, bytes]) -> None:
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


def _replay(body: bytes, left: asyncio.Event) -> Receive:
    """What the handler receives: the body once, then news only when the client leaves."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    return receive


async def _answer(scope: Scope, receive: Receive, reply: _Reply, call: Call, failure: QuartetError) -> None:
    """Tells the client, unless it left: a whole answer, or the last event of a stream that had begun."""
    call.failure = failure
    if isinstance(failure, ClientClosed):
        return
    if reply.status == 0:
        headers = {"Connection": "close"} if isinstance(failure, PayloadTooLarge | BodyTimeout) else {}
        await error_response(failure, call.request_id, headers)(scope, receive, reply.send)
    elif reply.is_events and not reply.is_complete:
        event = error_event(failure, call.request_id)
        await reply.send({"type": "http.response.body", "body": event, "more_body": False})


def _sender(scope: Scope) -> str:
    """Who takes turns with others for the engine."""
    client = scope.get("client")
    return client[0] if client else ""


def _request_id(headers: dict[bytes, bytes]) -> str:
    given = headers.get(b"x-request-id", b"").decode("latin-1")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def _finish(scope: Scope, reply: _Reply, call: Call, metrics: Metrics) -> None:
    """Counts and logs the request; operations routes are neither counted nor, when all is well, logged."""
    status = call.failure.status if call.failure is not None else reply.status or 499
    seconds = call.elapsed()
    is_quiet = scope["path"] in _QUIET and status < 400
    if scope["method"] == "POST":
        call.observe(metrics, status, seconds)
    if not is_quiet:
        _log.info(
            "%s %s %d",
            scope["method"],
            scope.get("raw_path", b"").decode("ascii", "backslashreplace")[:200],
            status,
            extra={"seconds": round(seconds, 6), **call.told()},
        )
