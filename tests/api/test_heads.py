"""What is wrong below a request's fields: heads, lengths, chunks, and clients that stop halfway."""

import json
import socket
from collections.abc import Iterator
from contextlib import closing

import pytest

from app.api.connections import ConnectionLimits
from tests.api.bad_inputs import GENERATE
from tests.api.conftest import Service
from tests.api.test_bad_inputs import GOOD, Client
from tests.api.test_dialects import check_shape

HEAD = b"POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODY = json.dumps(GENERATE).encode()
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
MAX_HEAD_BYTES = ConnectionLimits().max_head_bytes
CHUNKED = b"Transfer-Encoding: chunked\r\n"


@pytest.fixture
def client(shared: Service) -> Iterator[Client]:
    with closing(Client(shared.port)) as connection:
        yield connection


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        pytest.param(HEAD + b"Content-Length: -5\r\n\r\n" + BODY, 400, "invalid_http", id="negative length"),
        pytest.param(HEAD + b"Content-Length: many\r\n\r\n" + BODY, 400, "invalid_http", id="length in words"),
        pytest.param(HEAD + LENGTH + b"Content-Length: 5\r\n\r\n" + BODY, 400, "invalid_http", id="two lengths"),
        pytest.param(HEAD + b"Content-Length: 500\r\n\r\n" + BODY, 408, "body_timeout", id="length too long"),
        pytest.param(HEAD + CHUNKED + LENGTH + b"\r\n" + BODY, 400, "invalid_http", id="chunks with a length"),
        pytest.param(HEAD + CHUNKED + b"\r\n9\r\n" + BODY[:9], 408, "body_timeout", id="no last chunk"),
        pytest.param(b"How are you?\r\n\r\n", 400, "invalid_http", id="no HTTP"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "invalid_http", id="TLS"),
        pytest.param(b"GET /info HTTP/9.9\r\n\r\n", 400, "invalid_http", id="another version"),
        pytest.param(b"GET /info HTTP/1.1\r\nHost : x\r\n\r\n", 400, "invalid_http", id="a blank in a name"),
        pytest.param(b"GET /info HTTP/1.1\r\nHost: x\0\r\n\r\n", 400, "invalid_http", id="a zero byte"),
        pytest.param(HEAD + b"X-A: " + b"a" * (4 * MAX_HEAD_BYTES), 431, "head_too_large", id="a head without an end"),
    ],
)  # fmt: skip
def test_it_is_refused_in_our_words_and_the_connection_closed(
    client: Client, raw: bytes, status: int, code: str
) -> None:
    response = client.ask(raw, raw[:4].decode("latin-1").strip())
    check_shape(client.fault(), "openai")
    assert (response.status, client.fault()["error"]["code"]) == (status, code)
    assert response.headers["x-request-id"]
    assert client.num_opened == 2
    assert client.ask(GOOD.raw()).status == 200


def test_the_family_is_known_from_the_request_s_line(client: Client) -> None:
    client.ask(b"POST /translate HTTP/1.1\r\nContent-Length: many\r\n\r\n")
    check_shape(client.fault(), "libretranslate")
    client.ask(b"POST /pipeline/fill-mask?a=b HTTP/1.1\r\nContent-Length: many\r\n\r\n")
    check_shape(client.fault(), "huggingface")


def test_a_head_near_the_limit_is_read_however_it_comes(client: Client) -> None:
    raw = HEAD + b"X-A: " + b"a" * (MAX_HEAD_BYTES - 1000) + b"\r\n" + LENGTH + b"\r\n" + BODY
    assert client.ask(raw).status == 200
    for start in range(0, len(raw), 10_000):
        client.socket.sendall(raw[start : start + 10_000])
    assert client.ask(b"", "POST").status == 200
    assert client.num_opened == 1


@pytest.mark.parametrize(
    "raw",
    [HEAD + b"Content-Length: 5\r\n\r\n" + BODY, HEAD + CHUNKED + b"\r\nzz\r\n" + BODY],
    ids=["length too short", "a chunk without a size"],
)
def test_what_breaks_behind_a_head_is_refused_or_cut(client: Client, shared: Service, raw: bytes) -> None:
    """Two answers may be under way then, and one must not stand in the other."""
    client.socket.sendall(raw)
    try:
        told = client.socket.recv(1000)
    except ConnectionResetError:
        told = b""
    assert told == b"" or told.startswith(b"HTTP/1.1 400 ")
    with closing(Client(shared.port)) as other:
        assert other.ask(GOOD.raw()).status == 200


@pytest.mark.parametrize(
    "raw", [HEAD + LENGTH + b"\r\n" + BODY[:9], HEAD, b""], ids=["body", "head", "nothing"]
)
def test_who_closes_its_side_halfway_is_hung_up_on(client: Client, shared: Service, raw: bytes) -> None:
    client.socket.sendall(raw)
    client.socket.shutdown(socket.SHUT_WR)
    assert client.socket.recv(1) == b""
    with closing(Client(shared.port)) as other:
        assert other.ask(GOOD.raw()).status == 200
