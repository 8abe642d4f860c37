"""What operators' tools see: health, readiness, metrics, models, the description of the interface."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from app.engine.protocol import Report
from app.engine_setup import record
from tests.api.conftest import Service

ROOT = Path(__file__).resolve().parents[2]
REPORT = Report(
    model="writer",
    phase="decode",
    duration_s=0.002,
    batch_size=3,
    batch_tokens=3,
    padding_tokens=2,
    preemptions=1,
    drafted_tokens=5,
    accepted_tokens=3,
    running={"writer": 3},
    waiting={"writer": 1},
    kv_usage={"writer": 0.25},
)


def use_everything(service: Service) -> None:
    """Requests and a report that touch every metric."""
    body = {"prompt": "Hi", "max_tokens": 4, "model": "writer"}
    service.post("/v1/generate", body)
    service.post("/v1/generate", body | {"stream": True})
    service.post("/v1/generate", {"prompt": 5})
    service.post("/v1/generate", {"prompt": "x" * (1 << 21)})
    service.engine.num_requests = 1
    service.on_loop(lambda: record(service.registry.metrics, REPORT))


def test_health_and_readiness(service: Service) -> None:
    assert service.client.get("/health").json() == {"status": "ok"}
    assert service.client.get("/ready").json() == {"status": "ready", "reasons": []}
    service.engine.is_ready = False
    ready = service.client.get("/ready")
    assert (ready.status_code, ready.json()["status"]) == (503, "not ready")
    assert ready.json()["reasons"]
    assert service.client.get("/health").status_code == 200
    assert "quartet_engine_up 0.0" in service.client.get("/metrics").text


def test_the_docs_table_lists_what_is_exposed(service: Service) -> None:
    use_everything(service)
    table = {
        match[1]: (match[2], frozenset(re.findall(r"`(\w+)`", match[3])))
        for match in re.finditer(
            r"^\| `(\w+)` \| (\w+) \|([^|]*)\|",
            (ROOT / "docs/metrics.md").read_text(encoding="utf-8"),
            re.M,
        )
    }
    exposed = {}
    for family in text_string_to_metric_families(service.client.get("/metrics").text):
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le"}
        exposed[name] = (family.type, frozenset(labels))
    assert exposed == table


def test_reports_and_requests_reach_the_metrics(service: Service) -> None:
    use_everything(service)
    text = service.client.get("/metrics").text
    for line in (
        'quartet_requests_total{model="writer",outcome="ok",task="generate"} 2.0',
        'quartet_requests_total{model="none",outcome="client_error",task="none"} 2.0',
        'quartet_rejected_total{reason="payload_too_large"} 1.0',
        'quartet_tokens_total{kind="prompt",model="writer"} 4.0',
        'quartet_tokens_total{kind="generated",model="writer"} 8.0',
        'quartet_tokens_total{kind="padding",model="writer"} 2.0',
        'quartet_preemptions_total{model="writer"} 1.0',
        'quartet_speculative_tokens_total{model="writer",result="accepted"} 3.0',
        'quartet_speculative_tokens_total{model="writer",result="rejected"} 2.0',
        'quartet_time_to_first_token_seconds_count{model="writer",task="generate"} 2.0',
        'quartet_queue_duration_seconds_count{model="writer",task="generate"} 2.0',
        'quartet_inter_token_latency_seconds_count{model="writer",task="generate"} 2.0',
        'quartet_step_duration_seconds_count{model="writer",phase="decode"} 1.0',
        'quartet_requests_running{model="writer"} 3.0',
        'quartet_kv_cache_usage_ratio{model="writer"} 0.25',
        'quartet_model_load_seconds{model="mood"} 0.5',
        "quartet_engine_up 1.0",
    ):
        assert line in text
    service.engine.num_requests = 0
    assert 'quartet_requests_running{model="writer"} 0.0' in service.client.get("/metrics").text


def test_unknown_names_make_no_series(service: Service) -> None:
    for i in range(20):
        service.post("/v1/generate", {"prompt": "Hi", "model": f"m{i}"})
        service.client.get(f"/unknown{i}")
    text = service.client.get("/metrics").text
    assert 'quartet_requests_total{model="none",outcome="client_error",task="generate"} 20.0' in text
    assert "m19" not in text
    assert "unknown19" not in text


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool")
def test_promtool_finds_nothing(service: Service) -> None:
    use_everything(service)
    text = service.client.get("/metrics").content
    run = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (0, b"", b"")


def test_models_have_openai_s_shape(shared: Service) -> None:
    listed = shared.client.get("/v1/models").json()
    assert listed["object"] == "list"
    one = next(card for card in listed["data"] if card["id"] == "mood")
    assert {key: one[key] for key in ("object", "owned_by", "tasks", "labels")} == {
        "object": "model",
        "owned_by": "quartet",
        "tasks": ["classify"],
        "labels": ["bad", "fair", "good"],
    }
    assert shared.client.get("/v1/models/mood").json() == one
    assert "languages" not in one
    card = shared.client.get("/v1/models/translator").json()
    assert card["languages"] == {"pairs": [["en", "de"], ["en", "fr"]]}


def test_info_tells_models_and_defaults(shared: Service) -> None:
    info = shared.client.get("/info").json()
    assert (info["name"], info["version"], info["device"]) == ("quartet", "test", "cpu")
    assert info["default_models"] == {
        "translate": "translator",
        "generate": "writer",
        "classify": "mood",
        "qa": "reader",
        "fill-mask": "filler",
        "embed": "sentences",
        "chat": "assistant",
        "summarize": "assistant",
        "ner": "tagger",
        "zero-shot": "judge",
        "rerank": "ranker",
    }


def described_requests(description: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Method, path and body (None: none) of each example; a route has one at least, and each place in its path one."""
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            for parameter in operation.get("parameters", []):
                assert parameter["in"] == "path"
                path = path.replace(f"{{{parameter['name']}}}", parameter["schema"]["examples"][0])
            if "requestBody" not in operation:
                yield method, path, None
                continue
            reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
            schema: dict[str, Any] = description["components"]["schemas"][reference.rpartition("/")[2]]
            assert schema["examples"], path
            yield from ((method, path, example) for example in schema["examples"])


def test_the_description_has_our_errors_and_examples_that_run(shared: Service) -> None:
    """`tests/e2e/test_docs_examples.py` sends them to the packaged models; here other names stand for those."""
    description = shared.client.get("/openapi.json").json()
    assert "HTTPValidationError" not in description["components"]["schemas"]
    for methods in description["paths"].values():
        assert all("422" not in operation["responses"] for operation in methods.values())
    renamed: dict[str, Any] = {
        "sentiment": "mood",
        "minilm": "sentences",
        str([7592, 1010, 2088, 999]): [104],
    }
    requests = list(described_requests(description))
    for method, path, example in requests:
        body = example and {key: renamed.get(str(value), value) for key, value in example.items()}
        path = path.replace("sentiment", "mood").replace("writer/v1/chat", "assistant/v1/chat")
        answer = shared.client.request(method, path, json=body)
        assert answer.status_code == 200, path
    assert len([path for _, path, body in requests if body is not None]) == 32


def test_the_docs_page_needs_nothing_from_elsewhere(shared: Service) -> None:
    page = shared.client.get("/docs")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "Quartet" in page.text
    assert re.findall(r"(?:https?:)?//\w", page.text) == []
