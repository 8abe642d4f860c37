"""One client's connection: what is not HTTP, or has a head too long or too slow, is refused before all else."""

import asyncio
import uuid
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.api.call import Call
from app.api.dialects import dialect_of
from app.api.errors import JSON, encode_json, error_body
from app.errors import BodyTimeout, HeadTooLarge, InvalidRequest, QuartetError

MAX_HEAD_BYTES = 64 * 1024
"""Of a request's line and headers together."""


class Connection(HttpToolsProtocol):
    """uvicorn's, which alone would take a head of any length, wait for one for ever, and refuse in words of its own."""

    head_seconds = 30.0
    """From a connection's beginning, or a head's first byte, to the head's end."""
    url = b""
    _timer: asyncio.TimerHandle | None = None
    _num_waiting = 0
    _is_in_head = True
    _fault: QuartetError | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """The first head is awaited from now on."""
        super().connection_made(transport)
        self._limit_time()

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is awaited any more."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Counts what does not make a whole head yet."""
        super().data_received(data)
        if self.transport.is_closing() or not self._is_in_head:
            return
        self._num_waiting += len(data)
        if self._num_waiting > MAX_HEAD_BYTES:
            self._refuse(_too_large())
        elif self._timer is None:
            self._limit_time()

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._is_in_head = True

    def on_headers_complete(self) -> None:
        """A head ends; raises into the parser, which then asks for the refusal."""
        self._is_in_head = False
        self._num_waiting = 0
        self._stop_timer()
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > MAX_HEAD_BYTES:
            self._fault = _too_large()
            raise ValueError(self._fault.message)
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """What uvicorn calls when the parser gives up."""
        self._refuse(self._fault or InvalidRequest("the request is not valid HTTP", code="invalid_http"))

    def _limit_time(self) -> None:
        self._timer = self.loop.call_later(self.head_seconds, self._run_out)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _run_out(self) -> None:
        if self._num_waiting:
            seconds = f"{self.head_seconds:g} s"
            self._refuse(BodyTimeout(f"the request's head took longer than {seconds}", code="head_timeout"))
        else:
            self.transport.close()

    def _refuse(self, error: QuartetError) -> None:
        path = self.url.partition(b"?")[0].decode("latin-1")
        call = Call(uuid.uuid4().hex, 1.0, dialect_of(path))
        content = encode_json(error_body(error, call))
        headers: dict[str, Any] = {
            "content-type": JSON,
            "content-length": len(content),
            "x-request-id": call.request_id,
            "connection": "close",
        }
        status = HTTPStatus(error.status)
        lines = [f"HTTP/1.1 {status.value} {status.phrase}", *(f"{k}: {v}" for k, v in headers.items())]
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + content)
        self.transport.close()


def _too_large() -> HeadTooLarge:
    return HeadTooLarge(f"the request's line and headers are over {MAX_HEAD_BYTES} bytes")
