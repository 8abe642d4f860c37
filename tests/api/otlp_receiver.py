"""A receiver of traces, as a collector is one: OTLP over HTTP, in protobuf."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True)
class Received:
    """One span, its ids as hexadecimal text."""

    name: str
    trace_id: str
    id: str
    parent: str
    state: str
    kind: int
    start: int
    end: int
    attributes: dict[str, Any]
    events: list[str]
    status: int
    message: str
    resource: dict[str, Any]


class Receiver:
    """Keeps what comes, while its `gate` is open; `arrived` waits for spans."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self._spans: list[Received] = []
        self._changed = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.gate.wait()
                receiver.take(self.path, body)
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1/traces"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def take(self, path: str, body: bytes) -> None:
        assert path == "/v1/traces"
        with self._changed:
            self._spans += _read(body)
            self._changed.notify_all()

    def spans(self) -> list[Received]:
        with self._changed:
            return list(self._spans)

    def arrived(self, number: int) -> list[Received]:
        """So many spans, or more, in the order of their starts."""
        with self._changed:
            is_so = self._changed.wait_for(lambda: len(self._spans) >= number, timeout=20)
            assert is_so, [span.name for span in self._spans]
        return sorted(self.spans(), key=lambda span: (span.start, -span.end))

    def close(self) -> None:
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def receiving() -> Iterator[Receiver]:
    receiver = Receiver()
    try:
        yield receiver
    finally:
        receiver.close()


def _read(body: bytes) -> list[Received]:
    return [
        _span(span, _values(resource.resource.attributes))
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans
        for scope in resource.scope_spans
        for span in scope.spans
    ]


def _span(span: Any, resource: dict[str, Any]) -> Received:
    return Received(
        name=span.name,
        trace_id=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        state=span.trace_state,
        kind=span.kind,
        start=span.start_time_unix_nano,
        end=span.end_time_unix_nano,
        attributes=_values(span.attributes),
        events=[event.name for event in span.events],
        status=span.status.code,
        message=span.status.message,
        resource=resource,
    )


def _values(pairs: Any) -> dict[str, Any]:
    return {pair.key: _value(pair.value) for pair in pairs}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(one) for one in value.array_value.values]
    return getattr(value, kind)
