"""The Prometheus metrics, all of them; the API process alone owns the registry, so counters survive an engine restart.

Names, labels and edges are told in docs/metrics.md, and a test holds the two together. Label values are served model
names, task names or members of a fixed set; callers pass `none` for anything else.
"""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.exposition import generate_latest

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
NONE = "none"
OUTCOMES = ("ok", "client_error", "overloaded", "aborted", "timeout", "error")

# Durations from half a millisecond (one short text through an encoder) to two minutes (a long generation).
_DURATION = (
    *(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0, 20.0, 40.0, 80.0, 120.0),
)
_STEP = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12)
# OpenTelemetry's GenAI edges, extended downwards to a millisecond.
_FIRST_TOKEN = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
)
_PER_TOKEN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
_SEQUENCES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
_TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536)
_STEP_TOKENS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192)


class Metrics:
    """One instance per API process. Plain attributes; observing is the caller's line."""

    def __init__(self, version: str) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a gauge beside every series that nobody asked for
        self.registry = CollectorRegistry()
        self._make_request_metrics()
        self._make_engine_metrics()
        build = self._gauge("build_info", "Always 1; the version is a label.", "version")
        build.labels(version).set(1)

    def _make_request_metrics(self) -> None:
        by_task = ("model", "task")
        self.requests = self._counter("requests_total", "Requests that ended.", "model", "task", "outcome")
        self.rejected = self._counter(
            "rejected_total", "Requests refused before any work was done.", "reason"
        )
        self.request_duration = self._histogram(
            "request_duration_seconds",
            "From the head of the request to the last byte handed over.",
            _DURATION,
            *by_task,
        )
        self.queue_duration = self._histogram(
            "queue_duration_seconds",
            "From admission to the first step that computed it.",
            _DURATION,
            *by_task,
        )
        self.first_token = self._histogram(
            "time_to_first_token_seconds",
            "From the head of the request to its first token.",
            _FIRST_TOKEN,
            *by_task,
        )
        self.inter_token = self._histogram(
            "inter_token_latency_seconds",
            "Mean gap between the tokens of one sequence.",
            _PER_TOKEN,
            *by_task,
        )
        self.prompt_tokens = self._histogram("prompt_tokens", "Input tokens of a request.", _TOKENS, *by_task)
        self.generated_tokens = self._histogram(
            "generated_tokens", "Tokens generated for a request.", _TOKENS, *by_task
        )

    def _make_engine_metrics(self) -> None:
        self.tokens = self._counter(
            "tokens_total", "Tokens by kind: prompt, cached, generated, padding.", "model", "kind"
        )
        self.preemptions = self._counter(
            "preemptions_total", "Sequences that gave their blocks back.", "model"
        )
        self.speculative_tokens = self._counter(
            "speculative_tokens_total", "Guessed tokens by result: accepted, rejected.", "model", "result"
        )
        self.engine_restarts = self._counter(
            "engine_restarts_total", "Times the engine process was started again."
        )
        self.step_duration = self._histogram(
            "step_duration_seconds",
            "One engine step by phase: encode, prefill, decode.",
            _STEP,
            "model",
            "phase",
        )
        self.batch_size = self._histogram("batch_size", "Sequences in a step.", _SEQUENCES, "model")
        self.batch_tokens = self._histogram(
            "batch_tokens", "Tokens computed in a step.", _STEP_TOKENS, "model"
        )
        self.requests_running = self._gauge("requests_running", "Sequences being computed.", "model")
        self.requests_waiting = self._gauge("requests_waiting", "Sequences that wait for a place.", "model")
        self.kv_usage = self._gauge(
            "kv_cache_usage_ratio", "Part of the model's cache in use, 0 to 1.", "model"
        )
        self.kv_blocks = self._gauge("kv_cache_blocks", "Cache blocks the model may take.", "model")
        self.load_seconds = self._gauge("model_load_seconds", "Time it took to load the model.", "model")
        self.engine_up = self._gauge("engine_up", "1 while the engine process is loaded and steps.")

    def declare(self, models: Iterable[tuple[str, Iterable[str]]]) -> None:
        """Makes the series of the served models, so that they start at 0: (name, its tasks) each."""
        for name, tasks in models:
            for kind in ("prompt", "cached", "generated", "padding"):
                self.tokens.labels(name, kind)
            self.preemptions.labels(name)
            for result in ("accepted", "rejected"):
                self.speculative_tokens.labels(name, result)
            for task in tasks:
                self.requests.labels(name, task, "ok")
            self.set_idle([name])

    def set_idle(self, models: Iterable[str]) -> None:
        """Nothing of these models runs, waits or holds a block."""
        for name in models:
            for gauge in (self.requests_running, self.requests_waiting, self.kv_usage):
                gauge.labels(name).set(0)

    def forget(self, model: str) -> None:
        """It is served no more: its gauges go, its counters stay as they are."""
        for gauge in (
            *(self.requests_running, self.requests_waiting, self.kv_usage),
            *(self.kv_blocks, self.load_seconds),
        ):
            gauge.remove(model)

    def exposition(self) -> bytes:
        """The text format that Prometheus scrapes."""
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"quartet_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"quartet_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, edges: Iterable[float], *labels: str) -> Histogram:
        return Histogram(f"quartet_{name}", text, labels, buckets=tuple(edges), registry=self.registry)
