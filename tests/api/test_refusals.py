"""Requests for which there is no room, refused at their head: the same answer, counted the same, nothing made."""

import asyncio
import logging
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from app.api.connections import ConnectionLimits
from app.api.envelope import Envelope
from app.api.guard import Guard
from app.api.rates import Rates
from app.cli import _ACCEPTED_AT_ONCE, _Server
from app.security import KeyRing, new_key
from app.tasks.served import Served
from tests.api.conftest import LIMITS, Service
from tests.api.test_connections import asking, num_open, opened, read

ASKED: dict[str, object] = {"prompt": "Hi", "max_tokens": 1}


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Paths of the requests that the application sees."""
    paths: list[str] = []
    real = Envelope.__call__

    async def noting(self: Envelope, scope: Scope, receive: Receive, send: Send) -> None:
        paths.append(scope["path"])
        await real(self, scope, receive, send)

    monkeypatch.setattr(Envelope, "__call__", noting)
    return paths


def fill(service: Service) -> None:
    service.engine.is_full = True


def rejected(service: Service, reason: str = "queue_full") -> float:
    value = service.registry.metrics.registry.get_sample_value("quartet_rejected_total", {"reason": reason})
    return value or 0.0


def test_the_application_does_not_see_what_is_refused(
    service: Service, seen: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    fill(service)
    with caplog.at_level(logging.INFO, "quartet.access"):
        answer = service.post("/v1/generate", ASKED, headers={"X-Request-ID": "mine"})
    assert (answer.status_code, answer.headers["retry-after"], answer.headers["x-request-id"]) == (
        429,
        "2",
        "mine",
    )
    assert answer.json()["error"] == {
        "message": "the queue is full",
        "type": "overloaded_error",
        "param": None,
        "code": "queue_full",
    }
    assert (seen, rejected(service)) == ([], 1.0)
    [line] = [record for record in caplog.records if record.name == "quartet.access"]
    assert (line.getMessage(), vars(line)["request_id"]) == ("POST /v1/generate 429", "mine")
    counted = service.registry.metrics.registry.get_sample_value(
        "quartet_requests_total", {"model": "none", "task": "none", "outcome": "overloaded"}
    )
    assert counted == 1.0


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/translate", {"error": "the queue is full"}),
        ("/models/x", {"error": "the queue is full", "error_type": "overloaded"}),
    ],
)
def test_each_client_is_told_in_its_words(service: Service, seen: list[str], path: str, body: object) -> None:
    fill(service)
    assert (service.post(path, {}).json(), seen) == (body, [])


def test_on_one_connection_some_are_refused_and_others_served(service: Service, seen: list[str]) -> None:
    """Bodies of the refused ones are no requests, wherever they are cut."""
    fill(service)
    request = asking("/v1/generate", ASKED)
    with opened(service) as connection:
        connection.sendall(request + request + request[:-5])
        answers = b""
        while answers.count(b"queue_full") < 3:
            answers += connection.recv(1 << 16)
        service.engine.is_full = False
        connection.sendall(request[-5:] + request)
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
    assert (rejected(service), seen) == (3.0, ["/v1/generate"])


def test_a_client_of_http_1_0_is_refused_and_its_connection_closed(service: Service) -> None:
    fill(service)
    with opened(service) as connection:
        connection.sendall(asking("/v1/generate", ASKED).replace(b"HTTP/1.1", b"HTTP/1.0"))
        answer = read(connection)
    assert answer.startswith(b"HTTP/1.1 429")
    assert b"connection: close\r\n" in answer


@pytest.mark.parametrize("header", ["Origin", "X-Forwarded-For"])
def test_what_others_have_to_say_something_about_goes_the_long_way(
    start: Callable[..., Service], seen: list[str], header: str
) -> None:
    service = start(cors_origins=("https://a.example",))
    fill(service)
    answer = service.post("/v1/generate", ASKED, headers={header: "https://a.example"})
    assert (answer.status_code, seen) == (429, ["/v1/generate"])
    if header == "Origin":
        assert answer.headers["access-control-allow-origin"] == "https://a.example"


@pytest.mark.parametrize("path", ["/v1/tokenize", "/v1/detokenize"])
def test_what_needs_no_engine_is_done(service: Service, path: str) -> None:
    fill(service)
    assert service.post(path, {"model": "writer", "text": "Hi", "tokens": [1]}).status_code in (200, 400)


def test_who_may_not_ask_is_told_that_and_not_that_there_is_no_room(
    start: Callable[..., Service], tmp_path: Path, seen: list[str]
) -> None:
    secret, key = new_key("ann", ["infer"])
    (tmp_path / "keys").write_text(f"{key.line()}\n")
    service = start(guard=Guard(KeyRing(tmp_path / "keys"), ["127.0.0.1"]))
    fill(service)
    assert service.post("/v1/generate", ASKED).status_code == 401
    assert (
        service.post("/v1/generate", ASKED, headers={"X-API-Key": secret, "Host": "evil"}).status_code == 400
    )
    assert seen == ["/v1/generate"] * 2
    assert service.post("/v1/generate", ASKED, headers={"X-API-Key": secret}).status_code == 429
    assert service.post("/translate", {"api_key": secret}).status_code == 429
    assert seen == ["/v1/generate"] * 2 + ["/translate"]


def test_refusals_count_for_the_rate(start: Callable[..., Service], seen: list[str]) -> None:
    service = start(guard=Guard(rates=Rates(requests=2)))
    fill(service)
    codes = [service.post("/v1/generate", ASKED).json()["error"]["code"] for _ in range(3)]
    assert (codes, seen) == (["queue_full", "queue_full", "rate_limited"], [])


def test_refusals_that_nobody_reads_do_not_pile_up(served: list[Served]) -> None:
    service = Service(served, LIMITS, ConnectionLimits(write_timeout=0.5), send_bytes=4096)
    fill(service)
    sizes: list[int] = []

    def note() -> None:
        sizes.extend(
            one.transport.get_write_buffer_size() for one in service._server.server_state.connections
        )

    with opened(service, receive_bytes=4096) as connection:
        connection.setblocking(False)
        request = asking("/v1/generate", ASKED)
        with suppress(BlockingIOError):  # at some point the service reads no more
            while len(sizes) < 10_000:
                connection.send(request * 100)
                service.on_loop(note)
        service.wait_until(lambda: num_open(service) == 0)
    assert len(sizes) < 10_000
    assert 0 < max(sizes) < 200_000
    service.close()


def test_connections_are_accepted_a_few_at_a_time_and_the_rest_wait_without_being_lost() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("nobody asks")

    async def run() -> tuple[int, int]:
        config = uvicorn.Config(app, backlog=_ACCEPTED_AT_ONCE, lifespan="off", log_config=None, ws="none")
        server = _Server(config)
        config.load()
        server.lifespan = config.lifespan_class(config)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            await server.startup([listener])
            # The loop does not turn meanwhile: all of them are in the system's line.
            waiting = [socket.create_connection(listener.getsockname(), timeout=0.5) for _ in range(200)]
            await asyncio.sleep(0)
            at_once = num_accepted(server)
            while num_accepted(server) < len(waiting):  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0.001)
            for one in waiting:
                one.close()
            await server.shutdown([listener])
        return at_once, len(waiting)

    def num_accepted(server: uvicorn.Server) -> int:
        return len(server.server_state.connections)

    at_once, in_all = asyncio.run(asyncio.wait_for(run(), 20))
    assert at_once <= _ACCEPTED_AT_ONCE < in_all
