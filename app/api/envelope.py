"""What surrounds every request, whatever comes of it: its id before; its line in the log, its count, its trace.

A plain ASGI middleware, the outermost one of ours.
"""

import logging
import re
import uuid
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope, Send

from app import logs
from app.api.call import Call
from app.api.dialects import dialect_of
from app.api.reply import Reply
from app.api.spans import begin_trace, end_trace
from app.metrics import Metrics

if TYPE_CHECKING:
    from app.tracing import Tracing

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")
_QUIET = frozenset({"/health", "/ready", "/metrics"})
_log = logging.getLogger("quartet.access")


class Envelope:
    """Wraps the application; `max_timeout` in seconds bounds every call. With `tracing`, each has a trace too."""

    def __init__(
        self, app: ASGIApp, metrics: Metrics, max_timeout: float, tracing: "Tracing | None" = None
    ) -> None:
        self.app = app
        self.metrics = metrics
        self.max_timeout = max_timeout
        self.tracing = tracing

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        call = make_call(scope, self.max_timeout)
        reply = Reply(send, call.request_id)
        scope.setdefault("state", {}).update(call=call, reply=reply)
        token = logs.request_id.set(call.request_id)
        is_traced = self.tracing is not None and scope["path"] not in _QUIET
        trace = begin_trace(self.tracing, scope, call) if self.tracing and is_traced else None
        try:
            await self.app(scope, receive, reply.send)
        finally:
            status = call.failure.status if call.failure is not None else reply.status or 499
            finish(scope, call, status, self.metrics)
            if trace is not None:
                end_trace(trace, scope, call, reply, status)
            logs.request_id.reset(token)


def make_call(scope: Scope, max_timeout: float) -> Call:
    """What is known of a request by its head."""
    call = Call(_request_id(scope), max_timeout, dialect_of(scope["path"]))
    call.client = scope["client"][0] if scope.get("client") else None
    return call


def _request_id(scope: Scope) -> str:
    given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def finish(scope: Scope, call: Call, status: int, metrics: Metrics) -> None:
    """Counts and logs the request; operations routes are neither counted nor, when all is well, logged."""
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
            extra={"request_id": call.request_id, "seconds": round(seconds, 6), **call.told()},
        )
