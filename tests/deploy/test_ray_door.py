"""The door over replicas made here: what is tried again, what a client sees when nothing is left to try."""

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import Message

from app.main import Limits
from deploy.ray.door import ATTEMPTS, REPLICA_HEADER, Door, ReplicaLost

LIMITS = Limits(max_body_bytes=1000, body_timeout=5.0, max_timeout=60.0)
JSON = [(b"content-type", b"application/json"), (b"x-request-id", b"theirs")]
EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8")]


def head(status: int = 200, headers: list[tuple[bytes, bytes]] = JSON) -> Message:
    return {"type": "http.response.start", "status": status, "headers": headers}


def part(body: bytes, *, more: bool = False) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


WHOLE = [[head(), part(b"{}")]]
BUSY = [[head(503), part(b"busy")]]
LOST = ReplicaLost()


@dataclass
class Scripted:
    """Each asking is answered by the next script: a name, then batches; an exception in it is raised there."""

    scripts: list[Sequence[Any]]
    asked: list[tuple[str | None, tuple[str, ...]]] = field(default_factory=list)
    num_open: int = 0
    all_: dict[str, list[Message]] = field(default_factory=dict)

    async def ask(
        self, scope: dict[str, Any], body: bytes, prefix: str | None, avoid: tuple[str, ...]
    ) -> AsyncGenerator[Any, None]:
        self.scope, self.body = scope, body
        self.asked.append((prefix, avoid))
        self.num_open += 1
        try:
            for item in self.scripts[len(self.asked) - 1]:
                if isinstance(item, Exception):
                    raise item
                if isinstance(item, asyncio.Event):
                    await item.wait()
                else:
                    yield item
        finally:
            self.num_open -= 1

    async def ask_all(self, scope: dict[str, Any]) -> dict[str, list[Message]]:
        return self.all_


@dataclass
class Answer:
    status: int
    headers: dict[bytes, bytes]
    body: bytes
    is_whole: bool

    @property
    def code(self) -> str:
        code: str = json.loads(self.body.removeprefix(b"data: "))["error"]["code"]
        return code


def ask(
    replicas: Scripted, path: str = "/v1/generate", body: bytes = b'{"prompt": "Hi"}', patience: float = 5.0
) -> Answer:
    method = "POST" if body else "GET"
    scope = {"type": "http", "method": method, "path": path, "headers": [], "state": {"ours": object()}}
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(Door(replicas, LIMITS, patience)(scope, receive, send))
    assert [message["type"] for message in sent].count("http.response.start") == 1
    text = b"".join(message["body"] for message in sent[1:])
    return Answer(sent[0]["status"], dict(sent[0]["headers"]), text, not sent[-1].get("more_body", False))


def test_an_answer_comes_through_with_its_replicas_name() -> None:
    replicas = Scripted([["a", *WHOLE]])
    answer = ask(replicas)
    assert (answer.status, answer.body, answer.is_whole) == (200, b"{}", True)
    assert answer.headers == {b"content-type": b"application/json", REPLICA_HEADER: b"a"}
    assert replicas.body == b'{"prompt": "Hi"}'
    assert "state" not in replicas.scope
    assert replicas.asked[0][0] is not None


@pytest.mark.parametrize(
    "failed",
    [
        [LOST],
        ["a", LOST],
        ["a", [head()], LOST],
        ["a", *BUSY],
    ],
    ids=["before it was taken", "after", "after the head", "not now"],
)
def test_while_nothing_was_told_another_replica_is_asked(failed: Sequence[Any]) -> None:
    replicas = Scripted([failed, ["b", *WHOLE]])
    answer = ask(replicas)
    assert (answer.status, answer.body, answer.headers[REPLICA_HEADER]) == (200, b"{}", b"b")
    assert replicas.asked[1][1] == tuple(name for name in failed[:1] if name == "a")
    assert replicas.num_open == 0


def test_an_event_stream_that_breaks_off_ends_with_an_error_event() -> None:
    first = part(b'data: {"text": "a"}\n\n', more=True)
    replicas = Scripted([["a", [head(headers=EVENTS), first], LOST], ["b", *WHOLE]])
    answer = ask(replicas)
    assert (answer.status, answer.is_whole, len(replicas.asked)) == (200, True, 1)
    event = answer.body.split(b"\n\n")[1].removeprefix(b"data: ")
    assert json.loads(event)["error"]["code"] == "replica_lost"


def test_any_other_answer_that_breaks_off_is_cut() -> None:
    replicas = Scripted([["a", [head(), part(b"{", more=True)], LOST]])
    with pytest.raises(Exception, match="ended before"):
        ask(replicas)


def test_it_is_not_tried_for_ever() -> None:
    replicas = Scripted([["a", LOST]] * (ATTEMPTS + 1))
    answer = ask(replicas)
    assert (answer.status, answer.code, len(replicas.asked)) == (503, "replica_lost", ATTEMPTS)
    assert answer.headers[b"retry-after"] == b"1"
    replicas = Scripted([["a", *BUSY]] * (ATTEMPTS + 1))
    answer = ask(replicas)
    assert (answer.status, answer.body, len(replicas.asked)) == (503, b"busy", ATTEMPTS)


def test_where_nobody_takes_it_in_time_it_is_told_so() -> None:
    replicas = Scripted([[asyncio.Event()]])
    answer = ask(replicas, patience=0.01)
    assert (answer.status, answer.code, replicas.num_open) == (503, "no_replica", 0)


def test_faults_have_the_callers_shape() -> None:
    replicas = Scripted([[asyncio.Event()]])
    assert set(json.loads(ask(replicas, "/translate", patience=0.01).body)) == {"error"}
    answer = ask(Scripted([]), body=b"x" * 1001)
    assert (answer.status, answer.code) == (413, "payload_too_large")
    answer = ask(Scripted([["a", ValueError("secret")]]))
    assert (answer.status, answer.code) == (500, "internal")
    assert b"secret" not in answer.body


@pytest.mark.parametrize("path", ["/admin", "/admin/adapters"])
def test_nobody_administers_one_of_many(path: str) -> None:
    answer = ask(Scripted([]), path)
    assert (answer.status, answer.code) == (404, "route_not_found")


def exposition(value: int) -> list[Message]:
    registry = CollectorRegistry()
    Counter("seen", "What was seen.", ["by"], registry=registry).labels("me").inc(value)
    return [head(), part(generate_latest(registry))]


def test_metrics_are_those_of_all_replicas() -> None:
    answer = ask(Scripted([], all_={"a": exposition(1), "b": exposition(2)}), "/metrics", b"")
    families = list(text_string_to_metric_families(answer.body.decode()))
    samples = {
        (sample.name, sample.labels["replica"], sample.labels["by"]): sample.value
        for family in families
        for sample in family.samples
        if sample.name == "seen_total"
    }
    assert samples == {("seen_total", "a", "me"): 1.0, ("seen_total", "b", "me"): 2.0}
    assert answer.body.count(b"# TYPE seen_total counter") == 1


def test_who_may_not_see_the_metrics_gets_a_replicas_refusal() -> None:
    refusal = [head(401), part(b"no")]
    answer = ask(Scripted([], all_={"a": refusal, "b": refusal}), "/metrics", b"")
    assert (answer.status, answer.body) == (401, b"no")


def test_without_replicas_there_are_no_metrics() -> None:
    answer = ask(Scripted([]), "/metrics", b"")
    assert (answer.status, answer.code) == (503, "no_replica")
