"""One request from its first byte to its last: what the gate, the routes and the log share about it."""

import asyncio
import time
from dataclasses import dataclass, field

from app.api.dialects import Dialect
from app.errors import DeadlineExceeded, QuartetError
from app.metrics import NONE, Metrics
from app.tasks.base import Usage
from app.timeline import Timeline


@dataclass
class Call:
    """Made by the envelope, filled by the gate and the route. `model` and `task` hold served names only, or `none`."""

    request_id: str
    max_timeout: float
    dialect: Dialect = "openai"
    """Whose shape its errors have."""
    started: float = field(default_factory=time.monotonic)
    model: str = NONE
    task: str = NONE
    usage: Usage = field(default_factory=Usage)
    failure: QuartetError | None = None
    """What ended a stream whose status had been sent already."""
    client: str | None = None
    """The address that it came from."""
    key: str | None = None
    """The name of the key that it came with."""
    texts: str | None = None
    """What the log is to show of its body."""
    trace_id: str | None = None
    """Of the trace that it is a part of."""
    timeline: Timeline | None = None
    """Where the engine's work for it is noted."""
    deadline: asyncio.Timeout | None = None
    timeout: float = 0.0

    def limit_time(self, seconds: float) -> None:
        """Sets the request's deadline, counted from when it was read; an earlier one stands."""
        self.timeout = min(seconds, self.max_timeout, self.timeout or seconds)
        if self.deadline is not None:
            elapsed = time.monotonic() - self.started
            self.deadline.reschedule(asyncio.get_running_loop().time() + self.timeout - elapsed)

    def deadline_error(self) -> DeadlineExceeded:
        """What the client is told when the deadline passed."""
        return DeadlineExceeded(
            f"the request was not done within its {self.timeout:g} s; its work was aborted"
        )

    def elapsed(self) -> float:
        """Seconds since the request came."""
        return time.monotonic() - self.started

    def told(self) -> dict[str, object]:
        """What a log line says of it, beside the outcome: who asked, and what for where it reached a task."""
        who = {"client": self.client, "key": self.key, "trace_id": self.trace_id, "body": self.texts}
        told: dict[str, object] = {name: value for name, value in who.items() if value is not None}
        if self.task != NONE:
            counts = {name: count for name, count in self.usage.as_dict().items() if count}
            told |= {"model": self.model, "task": self.task, **counts}
        return told

    def observe(self, metrics: Metrics, status: int, seconds: float) -> None:
        """Puts the ended request into the metrics."""
        metrics.requests.labels(self.model, self.task, outcome(status)).inc()
        if status in (413, 429, 503) and self.failure is not None:
            metrics.rejected.labels(self.failure.code).inc()
        if self.task == NONE:
            return
        usage, labels = self.usage, (self.model, self.task)
        metrics.request_duration.labels(*labels).observe(seconds)
        for wait in usage.queue_durations:
            metrics.queue_duration.labels(*labels).observe(wait)
        if usage.first_token_at is not None:
            metrics.first_token.labels(*labels).observe(usage.first_token_at - self.started)
        for gap in usage.token_gaps:
            metrics.inter_token.labels(*labels).observe(gap)
        if usage.prompt_tokens:
            metrics.prompt_tokens.labels(*labels).observe(usage.prompt_tokens)
            metrics.tokens.labels(self.model, "prompt").inc(usage.prompt_tokens)
        if usage.completion_tokens:
            metrics.generated_tokens.labels(*labels).observe(usage.completion_tokens)
            metrics.tokens.labels(self.model, "generated").inc(usage.completion_tokens)
        if usage.cached_tokens:
            metrics.tokens.labels(self.model, "cached").inc(usage.cached_tokens)


def outcome(status: int) -> str:
    """The metrics' word for how a request ended."""
    if status < 400:
        return "ok"
    return {429: "overloaded", 499: "aborted", 504: "timeout"}.get(
        status, "client_error" if status < 500 else "error"
    )
