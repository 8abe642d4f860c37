"""How traces get to their receiver, or do not: the sampler, one that is gone or hangs, the end of the service."""

import logging
import time
from collections.abc import Callable

import pytest

from app.tracing import Tracing
from tests.api.conftest import Service
from tests.api.otlp_receiver import Receiver, receiving

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
GENERATE = {"prompt": "Hi", "max_tokens": 5}

Start = Callable[..., Service]


def test_the_sampler_is_the_environments_choice(
    start: Start, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "service.name=mine,team=blue")
    tracing = Tracing(receiver.url, "1.2.3")
    service = start(tracing=tracing)
    service.post("/v1/generate", GENERATE)
    service.post("/v1/generate", GENERATE, headers={"traceparent": PARENT})
    service.close()
    tracing.close(5.0)
    spans = receiver.arrived(4)
    assert {span.trace_id for span in spans} == {PARENT[3:35]}
    assert spans[0].resource["service.name"] == "mine"
    assert spans[0].resource["team"] == "blue"


def test_a_receiver_that_is_down_harms_no_request_and_fills_no_log(
    start: Start, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with receiving() as gone:
        url = gone.url
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1")
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "8")
    monkeypatch.setenv("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "4")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "0.2")
    tracing = Tracing(url, "1.2.3")
    service = start(tracing=tracing)
    with caplog.at_level(logging.WARNING):
        for _ in range(30):
            assert service.post("/v1/generate", GENERATE).status_code == 200
        service.close()
        tracing.close(5.0)
    told = [record for record in caplog.records if record.name.startswith("quartet")]
    assert [(record.name, record.levelno) for record in told] == [("quartet.tracing", logging.WARNING)]
    assert url in told[0].getMessage()


def test_what_is_left_is_sent_at_the_end(
    start: Start, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1000000")
    tracing = Tracing(receiver.url, "1.2.3")
    service = start(tracing=tracing)
    service.post("/v1/generate", GENERATE)
    service.close()
    assert receiver.spans() == []
    tracing.close(5.0)
    assert len(receiver.spans()) == 4


def test_the_end_does_not_wait_for_a_receiver_that_takes_nothing(
    start: Start, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    receiver.gate.clear()  # the SDK would wait for ten seconds
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "1000000")
    tracing = Tracing(receiver.url, "1.2.3")
    service = start(tracing=tracing)
    service.post("/v1/generate", GENERATE)
    service.close()
    began = time.monotonic()
    tracing.close(0.2)
    assert time.monotonic() - began < 5.0
    receiver.gate.set()
    receiver.arrived(4)
