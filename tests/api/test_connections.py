"""Clients that are slow to ask or to read, and more of them than there is room for."""

import json
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest

from app.api.connections import ConnectionLimits, allowed_connections
from app.tasks.served import Served
from tests.api.conftest import LIMITS, Service

SHORT = ConnectionLimits(head_timeout=0.3, write_timeout=0.3, max_connections=20, max_head_bytes=4096)
HEAD = b"POST /v1/generate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
SHORT_TEXT: dict[str, object] = {"prompt": "Hi", "max_tokens": 1}


@pytest.fixture(scope="module")
def bounded(served: list[Served]) -> Iterator[Service]:
    running = Service(served, LIMITS, SHORT, send_bytes=4096)
    yield running
    running.close()


@contextmanager
def opened(service: Service, receive_bytes: int | None = None) -> Iterator[socket.socket]:
    with socket.socket() as connection:
        if receive_bytes is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        connection.settimeout(10)
        connection.connect(("127.0.0.1", service.port))
        yield connection


def read(connection: socket.socket) -> bytes:
    """All until the other end closes."""
    with connection.makefile("rb") as stream:
        return stream.read()


def asking(path: str, body: dict[str, object]) -> bytes:
    content = json.dumps(body).encode()
    head = HEAD.replace(b"/v1/generate", path.encode())
    return head + b"Content-Length: %d\r\n\r\n" % len(content) + content


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"", b"", b""),
        (b"POST /v1/gen", b"408 Request Timeout", b'"code":"head_timeout"'),
        (HEAD, b"408 Request Timeout", b'"code":"head_timeout"'),
        (b"\r\n\r\n", b"408 Request Timeout", b'"code":"head_timeout"'),
        (HEAD + b"X: " + b"x" * 5000, b"431 Request Header Fields Too Large", b'"code":"head_too_large"'),
        (b"GARBAGE\r\n\r\n", b"400 Bad Request", b'"code":"invalid_http"'),
    ],
)
def test_what_never_becomes_a_request_is_ended(
    bounded: Service, sent: bytes, status: bytes, code: bytes
) -> None:
    for is_second in (False, True):
        with opened(bounded) as connection:
            if is_second:
                connection.sendall(asking("/v1/generate", SHORT_TEXT))
                assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")
            if is_second and not sent:
                continue  # that is a connection kept for later
            connection.sendall(sent)
            answer = read(connection)
            assert (b"HTTP/1.1 " + status in answer, code in answer) == (True, True) if status else not answer
            assert not status or b"x-request-id: " in answer


def test_a_head_that_takes_its_time_within_the_limit_is_served(bounded: Service) -> None:
    with opened(bounded) as connection:
        for byte in asking("/v1/generate", SHORT_TEXT):
            connection.sendall(bytes([byte]))
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200")


def test_who_never_reads_its_stream_is_cut_off_and_its_sequences_end(bounded: Service) -> None:
    aborted = num_ended(bounded, "aborted")
    body = {"prompt": ["Hi"] * 2, "max_tokens": 450, "logprobs": 1, "temperature": 0, "stream": True}
    with ExitStack() as stack:
        for _ in range(5):
            connection = stack.enter_context(opened(bounded, receive_bytes=4096))
            connection.sendall(asking("/v1/completions", body))
        assert bounded.client.get("/health").status_code == 200
        bounded.wait_until(lambda: num_ended(bounded, "aborted") == aborted + 5)
        bounded.wait_until(lambda: num_open(bounded) <= 1)
    assert (bounded.engine.num_running, bounded.registry.in_flight.handlers) == (0, set())


def test_who_never_reads_a_large_answer_is_cut_off(bounded: Service) -> None:
    """It is whole, so nobody is at work on it any more."""
    with opened(bounded, receive_bytes=4096) as connection:
        done = num_ended(bounded, "ok")
        connection.sendall(asking("/v1/tokenize", {"model": "writer", "text": "x" * 100_000}))
        bounded.wait_until(lambda: num_ended(bounded, "ok") > done)
        bounded.wait_until(lambda: num_open(bounded) <= 1)


def test_who_reads_slowly_gets_everything(bounded: Service) -> None:
    """Pauses shorter than the limit, many of them: in all it takes longer than that."""
    with opened(bounded, receive_bytes=4096) as connection:
        connection.sendall(asking("/v1/generate", {"prompt": ["Hi"] * 200, "max_tokens": 450}))
        answer, pauses = b"", iter([True] * 12)
        while not answer.endswith(b'"cached_tokens":0}}'):
            if next(pauses, False):
                bounded.wait_until(passed(bounded, 0.1))
            answer += connection.recv(1 << 15)
    assert answer.startswith(b"HTTP/1.1 200")


def test_where_there_is_no_room_the_longest_idle_makes_it(bounded: Service) -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(opened(bounded)) for _ in range(40)]
        for _ in range(3):
            answer = httpx.post(f"{bounded.client.base_url}/v1/generate", json=SHORT_TEXT)
            assert answer.status_code == 200
        bounded.wait_until(lambda: num_open(bounded) <= SHORT.max_connections)
        assert all(not read(connection) for connection in idle)


def test_where_all_are_at_work_a_new_one_is_told_so(served: list[Served]) -> None:
    service = Service(served, LIMITS, ConnectionLimits(max_connections=5))
    service.on_loop(service.engine.gate.clear)
    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(opened(service)).sendall(asking("/v1/generate", {"prompt": "Hi"}))
        service.wait_until(lambda: service.engine.num_running == 5)
        answer = httpx.post(f"{service.client.base_url}/v1/generate", json={"prompt": "Hi"})
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["error"]["code"] == "too_many_connections"
    service.wait_until(lambda: num_open(service) == 0)
    assert 'rejected_total{reason="too_many_connections"} 1.0' in service.client.get("/metrics").text
    service.close()


@pytest.mark.parametrize(
    ("soft", "hard", "allowed", "raised"),
    [(1024, 4096, 2000, 2256), (1024, 1200, 944, 1200), (5000, 5000, 2000, None), (1024, -1, 2000, 2256)],
)
def test_the_limit_on_open_files_is_raised_as_far_as_it_can_be(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, allowed: int, raised: int | None
) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda kind, pair: limits.append(pair))
    assert allowed_connections(2000) == allowed
    assert limits == ([] if raised is None else [(raised, hard)])


def num_open(service: Service) -> int:
    return len(service._server.server_state.connections)


def num_ended(service: Service, outcome: str) -> float:
    metric = service.registry.metrics.requests.collect()
    samples = [sample for one in metric for sample in one.samples]
    return sum(sample.value for sample in samples if sample.labels["outcome"] == outcome)


def passed(service: Service, seconds: float) -> Callable[[], bool]:
    """Whether so much time has passed on the server's loop."""
    end = service.on_loop(lambda: service._loop.time()) + seconds
    return lambda: service._loop.time() >= end
