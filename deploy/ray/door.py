"""The way in: reads a request whole, has a replica answer it, and has another one do so where that fails.

A plain ASGI application. Knows replicas only by what they can be asked; nothing of Ray.
"""

import asyncio
import logging
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any, Protocol

from starlette.types import Message, Receive, Scope, Send

from app.api.body import read_body
from app.api.call import Call
from app.api.dialects import dialect_of
from app.api.errors import error_event, error_response, route_not_found
from app.errors import BodyTimeout, ClientClosed, InternalError, PayloadTooLarge, QuartetError, Unavailable
from app.main import Limits
from app.metrics import CONTENT_TYPE
from deploy.ray.exchange import portable
from deploy.ray.exposition import merged
from deploy.ray.prefix import prefix_of

ATTEMPTS = 3
REPLICA_HEADER = b"x-replica"
"""Of every answer: who gave it."""

_log = logging.getLogger("quartet.errors")


class ReplicaLost(Exception):
    """The replica is gone, and with it what it had not told yet."""


class Replicas(Protocol):
    """All replicas together."""

    def ask(
        self, scope: dict[str, Any], body: bytes, prefix: str | None, avoid: tuple[str, ...]
    ) -> AsyncGenerator[Any, None]:
        """The name of the replica that takes the request, then lists of its messages as they come. It is one that has
        seen this prefix, if that is possible, and none of those to avoid, if there are others. Raises ReplicaLost, at
        any time; closing it ends the work."""
        ...

    async def ask_all(self, scope: dict[str, Any]) -> dict[str, list[Message]]:
        """What each replica answers to a request without a body, by the replica's name."""
        ...


class Door:
    """`patience`: seconds until a replica must have taken a request."""

    def __init__(self, replicas: Replicas, limits: Limits, patience: float) -> None:
        self._replicas, self._limits, self._patience = replicas, limits, patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One answer, or the error event of a stream that had begun; what can be neither is cut off."""
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        call = Call(given or uuid.uuid4().hex, self._limits.max_timeout, dialect_of(scope["path"]))
        reply = _Reply(send)
        try:
            await self._serve(scope, receive, reply)
        except ClientClosed:
            return
        except QuartetError as error:
            failure = error
        except Exception:
            _log.exception("internal error")
            failure = InternalError("internal error")
        else:
            return
        if not reply.has_begun:
            headers = {"Connection": "close"} if isinstance(failure, PayloadTooLarge | BodyTimeout) else {}
            await error_response(failure, call, headers)(scope, receive, send)
        elif reply.is_events:
            event = error_event(failure, call)
            await send({"type": "http.response.body", "body": event, "more_body": False})
        else:
            raise failure

    async def _serve(self, scope: Scope, receive: Receive, reply: "_Reply") -> None:
        path, headers = scope["path"], dict(scope["headers"])
        if path == "/admin" or path.startswith("/admin/"):  # it would change one replica of many
            raise route_not_found(path)
        limits = self._limits
        body = await read_body(receive, headers, limits.max_body_bytes, limits.body_timeout)
        carried = portable(scope)
        if path == "/metrics" and scope["method"] == "GET":
            await self._expose(carried, reply)
            return
        prefix = prefix_of(body) if scope["method"] == "POST" else None
        tried: list[str] = []
        for attempt in range(1, ATTEMPTS + 1):
            if await self._attempt(carried, body, prefix, tried, reply, is_last=attempt == ATTEMPTS):
                return

    async def _attempt(
        self,
        carried: dict[str, Any],
        body: bytes,
        prefix: str | None,
        tried: list[str],
        reply: "_Reply",
        *,
        is_last: bool,
    ) -> bool:
        """Whether the answer is given. While nothing of it has left, nothing is lost by asking another replica."""
        async with aclosing(self._replicas.ask(carried, body, prefix, tuple(tried))) as answer:
            try:
                tried.append(await self._taken_by(answer))
                reply.begin(tried[-1])
                async for messages in answer:
                    for message in messages:
                        if message.get("status") == Unavailable.status and not is_last:
                            return False
                        await reply.send(message)
            except ReplicaLost:
                if reply.has_begun or is_last:
                    message = "the replica ended before the request was done"
                    raise Unavailable(message, code="replica_lost", retry_after=1.0) from None
                return False
        return True

    async def _taken_by(self, answer: AsyncGenerator[Any, None]) -> str:
        try:
            async with asyncio.timeout(self._patience):
                name: str = await anext(answer)
                return name
        except TimeoutError:
            message = f"no replica took the request within {self._patience:g} s"
            raise Unavailable(message, code="no_replica", retry_after=5.0) from None

    async def _expose(self, carried: dict[str, Any], reply: "_Reply") -> None:
        """The metrics of all, or the first refusal."""
        answers = await self._replicas.ask_all(carried)
        if not answers:
            raise Unavailable("there is no replica", code="no_replica", retry_after=5.0)
        for name, messages in answers.items():
            if messages[0]["status"] != 200:
                reply.begin(name)
                for message in messages:
                    await reply.send(message)
                return
        exposition = merged({name: _text(messages) for name, messages in answers.items()})
        headers = [(b"content-type", CONTENT_TYPE.encode())]
        await reply.send({"type": "http.response.start", "status": 200, "headers": headers})
        await reply.send({"type": "http.response.body", "body": exposition})


class _Reply:
    """What goes to the client: a head only together with what follows it, so that until then it can be another's."""

    def __init__(self, send: Send) -> None:
        self.has_begun = False
        self.is_events = False
        self._send = send
        self._head: Message | None = None
        self._replica = ""

    def begin(self, replica: str) -> None:
        """From the beginning, by this one."""
        self._head, self._replica = None, replica

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            # Ray puts the request's id into every answer itself
            headers = [(name, value) for name, value in message["headers"] if name.lower() != b"x-request-id"]
            self.is_events = dict(headers).get(b"content-type", b"").startswith(b"text/event-stream")
            if self._replica:
                headers.append((REPLICA_HEADER, self._replica.encode()))
            self._head = {**message, "headers": headers}
            return
        if self._head is not None:
            await self._send(self._head)
            self._head, self.has_begun = None, True
        await self._send(message)


def _text(messages: list[Message]) -> str:
    return b"".join(message.get("body", b"") for message in messages).decode()
