"""Traces as a receiver of OTLP gets them: their spans, whose they are, what they tell and what never."""

import json
import logging
import random
import re
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest

from app.errors import EngineFailed, Unavailable
from app.tracing import Tracing
from tests.api.conftest import Service
from tests.api.otlp_receiver import Received, Receiver

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
UNSAMPLED = PARENT[:-2] + "00"
SERVER, ERROR, UNSET = 2, 2, 0
_NASTY = b'abc019=,;%-\t  \xff"\\_@*/'
GENERATE = {"prompt": "Hi", "max_tokens": 5}

Start = Callable[..., Service]


@pytest.fixture
def tracing(receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tracing]:
    """One that sends soon."""
    for name in ("OTEL_TRACES_SAMPLER", "OTEL_RESOURCE_ATTRIBUTES", "OTEL_SERVICE_NAME", "OTEL_PROPAGATORS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
    tracing = Tracing(receiver.url, "1.2.3")
    yield tracing
    tracing.close(5.0)


@pytest.fixture
def traced(start: Start, tracing: Tracing) -> Service:
    return start(tracing=tracing)


def in_order(spans: list[Received]) -> None:
    """The parts of one request follow each other, within it."""
    root, *parts = spans
    times = [root.start, *(time for part in parts for time in (part.start, part.end)), root.end]
    assert times == sorted(times)
    assert all(later.start == earlier.end for earlier, later in pairwise(parts))
    assert {part.parent for part in parts} <= {root.id}
    assert {span.trace_id for span in spans} == {root.trace_id}


def test_a_generation_is_a_span_with_its_queue_its_prefill_and_its_decode(
    traced: Service, receiver: Receiver
) -> None:
    before = time.time_ns()
    traced.engine.cached_tokens = 1
    body = GENERATE | {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "seed": 3, "model": "writer"}
    assert traced.post("/v1/generate", body, headers={"X-Request-ID": "mine"}).status_code == 200
    spans = receiver.arrived(4)
    assert [span.name for span in spans] == ["POST /v1/generate", "queue", "prefill", "decode"]
    in_order(spans)
    root = spans[0]
    assert before - 10**7 < root.start < root.end < time.time_ns() + 10**7
    assert (root.kind, root.parent, root.status) == (SERVER, "", UNSET)
    assert root.resource["service.name"] == "quartet"
    assert root.resource["service.version"] == "1.2.3"
    assert root.attributes == {
        "http.request.method": "POST",
        "http.route": "/v1/generate",
        "http.response.status_code": 200,
        "url.path": "/v1/generate",
        "url.scheme": "http",
        "network.protocol.version": "1.1",
        "server.address": "127.0.0.1",
        "server.port": traced.port,
        "client.address": "127.0.0.1",
        "gen_ai.operation.name": "text_completion",
        "gen_ai.provider.name": "quartet",
        "gen_ai.request.model": "writer",
        "gen_ai.response.model": "writer",
        "gen_ai.request.stream": False,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.top_k": 7,
        "gen_ai.request.max_tokens": 5,
        "gen_ai.request.seed": 3,
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.usage.input_tokens": 2,
        "gen_ai.usage.output_tokens": 5,
        "gen_ai.usage.cache_read.input_tokens": 1,
        "quartet.request_id": "mine",
        "quartet.task": "generate",
        "quartet.sequences": 1,
        "quartet.preemptions": 0,
    }


def test_a_trace_goes_on_where_its_callers_is(traced: Service, receiver: Receiver) -> None:
    headers = {"traceparent": PARENT, "tracestate": "vendor=1", "baggage": "secret=of-the-caller"}
    traced.post("/v1/classify", {"text": "a"}, headers=headers)
    spans = receiver.arrived(3)
    assert [span.name for span in spans] == ["POST /v1/classify", "queue", "encode"]
    in_order(spans)
    assert spans[0].trace_id == PARENT[3:35]
    assert spans[0].parent == PARENT[36:52]
    assert {span.state for span in spans} == {"vendor=1"}
    assert spans[0].attributes["gen_ai.operation.name"] == "classify"
    assert "of-the-caller" not in str(spans)


@pytest.mark.parametrize(
    "headers",
    [[("traceparent", "00-nonsense")], [("traceparent", PARENT)] * 2, []],
    ids=["broken", "two", "none"],
)
def test_without_a_good_parent_a_trace_begins_here(
    traced: Service, receiver: Receiver, headers: list[tuple[str, str]]
) -> None:
    traced.client.post("/v1/generate", json=GENERATE, headers=headers)
    root = receiver.arrived(4)[0]
    assert root.parent == ""
    assert root.trace_id != PARENT[3:35]
    assert len(set(root.trace_id)) > 1


def test_headers_of_any_kind_are_borne_and_not_quoted(
    tracing: Tracing, caplog: pytest.LogCaptureFixture
) -> None:
    chance = random.Random(5)
    known = (b"traceparent", PARENT.encode())
    for _ in range(1000):
        headers = [
            (chance.choice([b"tracestate", b"baggage", b"traceparent"]), bytes(chance.choices(_NASTY, k=60)))
            for _ in range(chance.randrange(4))
        ]
        tracing.begin("POST", [*headers, known], time.monotonic(), {})
    tracing.begin("POST", [known, (b"baggage", b"a=b" + b" " * 60_000 + b"c")], time.monotonic(), {})
    assert not [record for record in caplog.records if record.name.startswith("quartet")]


def test_a_caller_who_keeps_no_trace_gets_none(
    traced: Service, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "quartet.access"):
        traced.post("/v1/generate", GENERATE, headers={"traceparent": UNSAMPLED})
        traced.post("/v1/classify", {"text": "a"})
        assert {span.trace_id for span in receiver.arrived(3)}.isdisjoint([PARENT[3:35]])
    assert caplog.records[0].trace_id == PARENT[3:35]  # type: ignore[attr-defined]


def test_a_stream_is_traced_to_its_end(traced: Service, receiver: Receiver) -> None:
    traced.engine.delay = 0.01
    body = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, "stream": True}
    began = time.time_ns()
    with traced.client.stream("POST", "/v1/chat/completions", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        first = time.time_ns()
        list(lines)
    spans = receiver.arrived(4)
    assert [span.name for span in spans] == ["POST /v1/chat/completions", "queue", "prefill", "decode"]
    in_order(spans)
    assert began < first < spans[0].end
    assert spans[3].end - spans[3].start >= 5 * 10**7
    assert spans[0].attributes["gen_ai.request.stream"] is True
    assert spans[0].attributes["gen_ai.operation.name"] == "chat"
    assert spans[0].attributes["gen_ai.response.finish_reasons"] == ["length"]


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_text_that_ends_at_a_stop_string_says_so(
    traced: Service, receiver: Receiver, is_stream: bool
) -> None:
    traced.post("/v1/generate", GENERATE | {"max_tokens": 40, "stop": "Stop", "stream": is_stream})
    spans = receiver.arrived(4)
    in_order(spans)
    assert spans[0].attributes["gen_ai.response.finish_reasons"] == ["stop"]


@pytest.mark.parametrize(
    ("free_tokens", "names"),
    [(0, ["queue"]), (2, ["queue", "prefill", "decode"])],
    ids=["waiting", "decoding"],
)
def test_a_client_who_leaves_is_told_of(
    traced: Service, receiver: Receiver, free_tokens: int, names: list[str]
) -> None:
    traced.on_loop(traced.engine.gate.clear)
    traced.engine.free_tokens = free_tokens
    body = {"prompt": "Hi", "max_tokens": 30, "stream": True}
    if free_tokens:
        with traced.client.stream("POST", "/v1/generate", json=body) as response:
            next(response.iter_lines())
    else:
        with pytest.raises(Exception, match="timed out"):
            traced.post("/v1/generate", body, timeout=0.2)
    spans = receiver.arrived(1 + len(names))
    assert [span.name for span in spans] == ["POST /v1/generate", *names]
    in_order(spans)
    root = spans[0]
    assert (root.status, root.message) == (ERROR, "client_closed_request")
    assert root.attributes["error.type"] == "client_closed_request"
    assert root.attributes.get("http.response.status_code") == (200 if free_tokens else None)


def test_what_the_engine_cannot_do_is_an_error(traced: Service, receiver: Receiver) -> None:
    traced.engine.failure = EngineFailed("it broke on 'Hi'")
    traced.post("/v1/generate", GENERATE)
    [root] = receiver.arrived(1)
    assert (root.status, root.message) == (ERROR, "engine_failed")
    assert root.attributes["error.type"] == "engine_failed"
    assert root.attributes["http.response.status_code"] == 500


def test_a_stream_that_fails_after_its_head_is_an_error(traced: Service, receiver: Receiver) -> None:
    traced.engine.failure, traced.engine.fail_after = Unavailable("gone", code="restarting"), 3
    traced.post("/v1/generate", GENERATE | {"stream": True})
    spans = receiver.arrived(4)
    in_order(spans)
    assert (spans[0].status, spans[0].message) == (ERROR, "restarting")
    assert spans[0].attributes["http.response.status_code"] == 200


@pytest.mark.parametrize(
    ("path", "body", "name", "code"),
    [
        ("/v1/generate", {"prompt": "Hi", "max_tokens": -1}, "POST /v1/generate", "invalid_value"),
        ("/v1/generate", {"prompt": "Hi", "model": "no-one"}, "POST /v1/generate", "model_not_found"),
        ("/v1/no-such-route", {}, "POST", "route_not_found"),
    ],
)
def test_a_clients_mistake_has_its_code_and_is_no_error_of_ours(
    traced: Service, receiver: Receiver, path: str, body: dict[str, Any], name: str, code: str
) -> None:
    traced.post(path, body)
    [root] = receiver.arrived(1)
    assert (root.name, root.status, root.attributes["error.type"]) == (name, UNSET, code)
    assert "no-one" not in str(root)


def test_a_thousand_texts_are_one_encode(traced: Service, receiver: Receiver) -> None:
    traced.post("/v1/classify", {"text": ["a"] * 1000})
    spans = receiver.arrived(3)
    assert [span.name for span in spans] == ["POST /v1/classify", "queue", "encode"]
    assert spans[0].attributes["quartet.sequences"] == 1000
    assert spans[0].attributes["gen_ai.usage.input_tokens"] == 3000


def test_many_texts_at_once_tell_of_the_first_ones_ends(traced: Service, receiver: Receiver) -> None:
    traced.post("/v1/generate", {"prompt": ["a"] * 100, "max_tokens": 2})
    spans = receiver.arrived(4)
    in_order(spans)
    assert spans[0].attributes["gen_ai.response.finish_reasons"] == ["length"] * 32


def test_a_search_is_one_piece(traced: Service, receiver: Receiver) -> None:
    traced.post("/v1/generate", GENERATE | {"num_beams": 2, "model": "writer"})
    spans = receiver.arrived(3)
    assert [span.name for span in spans] == ["POST /v1/generate", "queue", "search"]
    in_order(spans)
    assert spans[0].attributes["gen_ai.response.finish_reasons"] == ["length"]


def test_a_path_with_a_name_in_it_counts_under_its_route(traced: Service, receiver: Receiver) -> None:
    traced.client.get("/v1/models/writer")
    [root] = receiver.arrived(1)
    assert re.fullmatch(r"GET /v1/models/\{\w+\}", root.name)
    assert root.attributes["url.path"] == "/v1/models/writer"
    assert "gen_ai.operation.name" not in root.attributes


def test_an_unknown_method_does_not_make_names(traced: Service, receiver: Receiver) -> None:
    traced.client.request("PROPFIND", "/v1/generate")
    [root] = receiver.arrived(1)
    assert root.name == "HTTP /v1/generate"
    assert root.attributes["http.request.method"] == "_OTHER"


def test_probes_make_no_spans(traced: Service, receiver: Receiver) -> None:
    for path in ("/health", "/ready", "/metrics"):
        assert traced.client.get(path).status_code == 200
    traced.client.get("/info")
    assert [span.name for span in receiver.arrived(1)] == ["GET /info"]


def test_nothing_of_a_text_is_in_a_trace(traced: Service, receiver: Receiver) -> None:
    traced.engine.text = "classified"
    secret = {"prompt": "confidential", "max_tokens": 12, "stop": "nowhere", "user": "somebody"}
    traced.post("/v1/completions?token=hidden", secret, headers={"Authorization": "Bearer private"})
    told = json.dumps([vars(span) for span in receiver.arrived(4)])
    for word in ("confidential", "classified", "nowhere", "somebody", "hidden", "private"):
        assert word not in told


def test_the_log_line_names_the_trace(
    traced: Service, receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "quartet.access"):
        traced.post("/v1/generate", GENERATE)
        root = receiver.arrived(4)[0]
    assert [record.trace_id for record in caplog.records] == [root.trace_id]  # type: ignore[attr-defined]


def test_nothing_else_makes_spans_where_a_provider_is_there_for_all(
    start: Start, tracing: Tracing, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("opentelemetry.trace._TRACER_PROVIDER", tracing._provider)
    service = start()
    assert service.post("/v1/generate", GENERATE | {"max_tokens": -1}).status_code == 400
    service.close()
    tracing.close(5.0)
    assert receiver.spans() == []


def test_without_tracing_nothing_of_it_shows(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "quartet.access"):
        assert service.post("/v1/generate", GENERATE, headers={"traceparent": PARENT}).status_code == 200
        service.close()
    [record] = caplog.records
    assert not hasattr(record, "trace_id")


def test_what_the_engine_goes_through_is_told(traced: Service, receiver: Receiver) -> None:
    traced.on_loop(traced.engine.gate.clear)
    traced.engine.free_tokens = 1
    with traced.client.stream("POST", "/v1/generate", json=GENERATE | {"stream": True}) as response:
        lines = response.iter_lines()
        next(lines)

        def happen() -> None:
            [timeline] = traced.engine.timelines
            timeline.preempt()
            timeline.restart(time.monotonic())
            traced.engine.gate.set()

        traced.on_loop(happen)
        assert list(lines)[-2] == "data: [DONE]"
    root = receiver.arrived(4)[0]
    assert root.events == ["engine.restarted"]
    assert root.attributes["quartet.preemptions"] == 1
