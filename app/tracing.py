"""OpenTelemetry: the one place that knows its packages (extra `otel`). Imported only where traces are asked for.

A span leaves through a bounded queue and a thread of the SDK's; what happens to it there is no request's concern. The
SDK reads its own variables (OTEL_TRACES_SAMPLER, OTEL_BSP_…, OTEL_EXPORTER_OTLP_HEADERS, OTEL_RESOURCE_ATTRIBUTES, …).
"""

import logging
import threading
import time
from collections.abc import Iterable, Mapping, Sequence

from opentelemetry import propagate
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.propagators.textmap import Getter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, format_trace_id, set_span_in_context

from app.timeline import Phase

QUIET_SECONDS = 60.0
"""Between two lines in the log about traces that do not get through."""

Headers = Iterable[tuple[bytes, bytes]]
Attributes = Mapping[str, str | int | float | bool | Sequence[str]]

_OWN = ("opentelemetry.exporter", "opentelemetry.sdk")
_log = logging.getLogger("quartet.tracing")


class Tracing:
    """Spans, and where they go: the URL of a receiver of OTLP over HTTP. One a process; `close` ends it."""

    def __init__(self, endpoint: str, version: str) -> None:
        """Raises ValueError where OpenTelemetry's variables cannot be used."""
        sdk = logging.getLogger("opentelemetry")
        sdk.handlers, sdk.propagate = [_Relay(endpoint)], False
        own: Attributes = {"service.name": "quartet", "service.version": version}
        resource = Resource.create({**own, **OTELResourceDetector().detect().attributes})
        self._provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint)))
        self._tracer = self._provider.get_tracer("quartet", version)

    def begin(self, name: str, headers: Headers, started: float, attributes: Attributes) -> "Trace":
        """The span of a request that came at `started` (`time.monotonic()`), below the one that its headers name.

        Whether it is recorded is its parent's decision, or the sampler's, who sees `attributes`.
        """
        offset = time.time_ns() - time.monotonic_ns()
        span = self._tracer.start_span(
            name,
            propagate.extract(headers, getter=_GETTER),
            SpanKind.SERVER,
            attributes,
            start_time=_nanoseconds(started) + offset,
        )
        return Trace(self._tracer, span, offset)

    def close(self, timeout: float) -> None:
        """Sends what is left, for up to `timeout` seconds; then it is lost."""
        thread = threading.Thread(target=self._provider.shutdown, name="traces' end", daemon=True)
        thread.start()
        thread.join(timeout)


class Trace:
    """One request's span while it is open. `offset`, in nanoseconds, is what lies between `time.monotonic()`, which is
    never set, and the time of day; one for the whole request, so that its parts stay in order."""

    def __init__(self, tracer: Tracer, span: Span, offset: int) -> None:
        self._tracer, self._span, self._offset = tracer, span, offset

    @property
    def id(self) -> str | None:
        """The trace's, as W3C writes it; None where the SDK is disabled."""
        context = self._span.get_span_context()
        return format_trace_id(context.trace_id) if context.is_valid else None

    @property
    def is_recorded(self) -> bool:
        """Whether anything that is told of it is kept."""
        return self._span.is_recording()

    def add_event(self, name: str, at: float) -> None:
        """Something that happened."""
        self._span.add_event(name, timestamp=self._wall(at))

    def add_phase(self, phase: Phase, attributes: Attributes) -> None:
        """A part of its time, as a span below it."""
        parent = set_span_in_context(self._span)
        child = self._tracer.start_span(
            phase.name, parent, attributes=attributes, start_time=self._wall(phase.start)
        )
        child.end(self._wall(phase.end))

    def end(self, name: str, attributes: Attributes, error: str | None, at: float) -> None:
        """Nothing more comes. `error`: it failed, and why in words that hold nothing of what the client sent."""
        self._span.update_name(name)
        self._span.set_attributes(attributes)
        if error is not None:
            self._span.set_status(StatusCode.ERROR, error)
        self._span.end(self._wall(at))

    def _wall(self, at: float) -> int:
        return _nanoseconds(at) + self._offset


class _HeaderGetter(Getter[Headers]):
    """Reads ASGI's headers."""

    def get(self, carrier: Headers, key: str) -> list[str] | None:
        wanted = key.lower().encode("latin-1")
        # Runs of blanks are one: the SDK's patterns take quadratic time for them.
        values = [b" ".join(value.split()).decode("latin-1") for name, value in carrier if name == wanted]
        if len(values) > 1 and key == "traceparent":
            return None  # two parents are none
        return values or None

    def keys(self, carrier: Headers) -> list[str]:
        return [name.decode("latin-1") for name, _ in carrier]


_GETTER = _HeaderGetter()


class _Relay(logging.Handler):
    """What the SDK has to say of its own work, in one line of ours, and not again within QUIET_SECONDS.

    What it says of headers that it cannot read is left out: it quotes them.
    """

    def __init__(self, endpoint: str) -> None:
        super().__init__(logging.WARNING)
        self._endpoint = endpoint
        self._quiet_until = 0.0

    def emit(self, record: logging.LogRecord) -> None:
        if record.created < self._quiet_until or not record.name.startswith(_OWN):
            return
        self._quiet_until = record.created + QUIET_SECONDS
        _log.warning("traces to %s: %s", self._endpoint, record.getMessage())


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
