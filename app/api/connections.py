"""Connections as such: how many there may be, and how long one may be slow to ask or to read.

uvicorn's own protocol waits for ever for a head, and for ever for a client to take its answer. What happens within a
request is the gate's business.
"""

import asyncio
import resource
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from app.api.call import Call
from app.api.dialects import dialect_of
from app.api.errors import error_response
from app.errors import HeadTimeout, HeadTooLarge, InvalidRequest, QuartetError, Unavailable
from app.metrics import Metrics

OTHER_FILES = 256
"""Open files of this process that are no connections, at most."""
_CLOSE = {b"connection": b"close"}


@dataclass(frozen=True)
class ConnectionLimits:
    """Seconds until a request's head must be there, from the opening of the connection or from the head's first byte;
    seconds within which a client must take at least a part of what is ready for it; how many connections, how large
    heads."""

    head_timeout: float = 30.0
    write_timeout: float = 30.0
    max_connections: int = 8192
    max_head_bytes: int = 65536


class Connections:
    """Those of one server. Where there are too many, the one that has been idle for longest is cut for a new one.

    `refuse` is asked about each request once its head is there, and gives the whole answer to one that the application
    need not see.
    """

    def __init__(
        self, limits: ConnectionLimits, metrics: Metrics, refuse: Callable[[Scope], Response | None]
    ) -> None:
        self.limits, self.metrics, self.refuse = limits, metrics, refuse
        self.idle: dict[Connection, None] = {}
        """Nothing that they ask for is worked on; who has been so for longest comes first."""

    def protocol(self, **given: Any) -> "Connection":
        """What uvicorn makes one with."""
        return Connection(self, **given)


class Connection(HttpToolsProtocol):
    """One of them. All is called by the event loop."""

    def __init__(self, all_: Connections, **given: Any) -> None:
        super().__init__(**given)
        self._all, self._limits = all_, all_.limits
        self._interval = min(self._limits.head_timeout, self._limits.write_timeout) / 4
        self._timer: asyncio.TimerHandle | None = None
        self._head_since: float | None = None  # while the head of a request is awaited
        self._num_head_bytes = 0
        self._is_at_head = False
        self._is_in_body = False  # which may go on behind the answer, where that was a refusal
        self._num_unsent = 0  # of what nothing more is put to, at the last look
        self._unsent_since = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        super().connection_made(transport)
        self._head_since = self.loop.time()
        self._all.idle[self] = None
        self._look()
        if len(self.connections) > self._limits.max_connections:
            longest = next(iter(self._all.idle))
            if longest is self:
                self.app = self._refuse
            else:
                del self._all.idle[longest]
                longest.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._all.idle.pop(self, None)
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        if self._head_since is None and self._is_between_requests and not self._is_in_body:
            self._await_head()
        is_of_head = self._head_since is not None
        super().data_received(data)
        if is_of_head and self._head_since is not None and not self.transport.is_closing():
            self._num_head_bytes += len(data)
            if self._num_head_bytes > self._limits.max_head_bytes:
                self._end(HeadTooLarge(f"the head is over {self._limits.max_head_bytes} bytes"))

    def on_message_begin(self) -> None:
        if self._head_since is None:
            self._await_head()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._head_since, self._is_in_body = None, True
        self._all.idle.pop(self, None)
        self._is_at_head = True
        super().on_headers_complete()
        self._is_at_head = False

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        """Not for what is refused: a task, an application's layers and two writes cost several times as much. One that
        stood behind another on its connection goes the long way, and so does one whose client does not read."""
        answer = None
        if self._is_at_head and app is self.config.loaded_app and not self.flow.write_paused:
            answer = self._all.refuse(cast(Scope, self.scope))
        if answer is None:
            super()._start_asgi_task(cycle, app)
            return
        self._write(answer, {} if cycle.keep_alive else _CLOSE)
        cycle.response_started = cycle.response_complete = True
        if not cycle.keep_alive:
            self.transport.close()
        self.on_response_complete()

    def on_message_complete(self) -> None:
        self._is_in_body = False
        super().on_message_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self._is_between_requests and not self.transport.is_closing():
            self._all.idle[self] = None

    def send_400_response(self, msg: str) -> None:
        self._end(InvalidRequest(msg, code="invalid_http"))

    @property
    def _is_between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _await_head(self) -> None:
        self._head_since, self._num_head_bytes = self.loop.time(), 0

    def _look(self) -> None:
        """Again and again: cuts it off where its client is too slow."""
        now = self.loop.time()
        if self._is_stuck(now):
            self.transport.abort()
        elif self._is_late(now) and not self.transport.is_closing():
            if self._num_head_bytes:
                self._end(HeadTimeout(f"the head took longer than {self._limits.head_timeout:g} s"))
            else:
                self.transport.close()
        self._timer = self.loop.call_later(self._interval, self._look)

    def _is_late(self, now: float) -> bool:
        if self._head_since is None or not self._is_between_requests:
            return False
        return now - self._head_since >= self._limits.head_timeout

    def _is_stuck(self, now: float) -> bool:
        """Whether nothing has left for so long. While more may be put to what is to leave, that cannot be seen; but
        then it is not much."""
        num_unsent = self.transport.get_write_buffer_size()
        is_final = self.flow.write_paused or self.transport.is_closing() or self._is_between_requests
        if not (is_final and num_unsent):
            num_unsent = 0
        if num_unsent < self._num_unsent or not self._num_unsent:
            self._unsent_since = now
        self._num_unsent = num_unsent
        return num_unsent > 0 and now - self._unsent_since >= self._limits.write_timeout

    def _end(self, error: QuartetError) -> None:
        """Answers what never became a request, where no other answer is under way, and closes."""
        if not self._is_between_requests:
            self.transport.abort()
            return
        path = getattr(self, "url", b"").partition(b"?")[0].decode("latin-1")
        call = Call(uuid.uuid4().hex, 0.0, dialect_of(path))
        self._write(error_response(error, call, {"X-Request-ID": call.request_id}), _CLOSE)
        self.transport.close()

    def _write(self, answer: Response, more: Mapping[bytes, bytes]) -> None:
        headers = [*self.server_state.default_headers, *answer.raw_headers, *more.items()]
        lines = [name + b": " + value + b"\r\n" for name, value in headers]
        self.transport.write(b"".join([STATUS_LINE[answer.status_code], *lines, b"\r\n", bytes(answer.body)]))

    async def _refuse(self, scope: Scope, receive: Receive, send: Send) -> None:
        """In place of the application."""
        error = Unavailable("too many connections", code="too_many_connections", retry_after=1.0)
        assert error.code is not None
        self._all.metrics.rejected.labels(error.code).inc()
        call = Call(uuid.uuid4().hex, 0.0, dialect_of(scope["path"]))
        headers = {"Connection": "close", "X-Request-ID": call.request_id}
        await error_response(error, call, headers)(scope, receive, send)


def allowed_connections(most: int) -> int:
    """`most`, or as many as the limit on open files leaves when it is raised as far as it can be."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = most + OTHER_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        soft = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return most if soft == resource.RLIM_INFINITY else max(1, min(most, soft - OTHER_FILES))
