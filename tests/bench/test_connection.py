"""The small HTTP client, against answers cut, framed and ended in every way."""

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from app.bench.connection import Connection, Fault, Site
from app.bench.events import EventReader
from tests.bench.server import STREAM, Asked, Writer, chunk, serving, sized, told


@pytest.mark.parametrize(
    ("url", "site"),
    [
        ("http://localhost:8000", Site("http", "localhost", 8000)),
        ("http://localhost", Site("http", "localhost", 80)),
        ("https://example.org/", Site("https", "example.org", 443)),
        ("http://localhost:8000/v1", Site("http", "localhost", 8000)),
        ("http://[::1]:80/models/v1/", Site("http", "::1", 80, "/models")),
    ],
)
def test_an_address_is_read_with_or_without_v1(url: str, site: Site) -> None:
    assert Site.parse(url) == site


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8000",
        "ftp://x",
        "http://",
        "http://x:y",
        "http://a b",
        "http://u:p@x",
        "http://x/?q=1",
        "ü",
    ],
)
def test_what_is_no_address_is_refused_by_its_text(url: str) -> None:
    with pytest.raises(ValueError):
        Site.parse(url)


def ask(answer: Callable[[Asked, Writer], None], times: int = 1) -> tuple[list[tuple[int, bytes]], int]:
    """What comes of asking a server for something several times over one client; connections made."""

    async def handle(asked: Asked, writer: Writer) -> None:
        answer(asked, writer)

    async def run(port: int) -> list[tuple[int, bytes]]:
        found = []
        async with Connection(Site("http", "127.0.0.1", port, "/base"), {"X-Key": "k"}) as connection:
            for _ in range(times):
                reply = await connection.ask("POST", "/path", b"{}")
                found.append((reply.status, await reply.read()))
        return found

    with serving(handle) as site:
        found = asyncio.run(run(site.port))
    for asked in site.asked:
        assert (asked.path, asked.content, asked.headers["x-key"]) == ("/base/path", b"{}", "k")
        assert asked.headers["host"] == f"127.0.0.1:{site.port}"
    return found, site.connections


def test_one_connection_serves_many_requests() -> None:
    assert ask(lambda _, writer: writer.write(sized(b"yes")), times=3) == ([(200, b"yes")] * 3, 1)


def test_chunks_with_extensions_and_trailers_are_read() -> None:
    content = STREAM + b"3;x=y\r\nabc\r\n" + chunk(b"d" * 100_000) + b"0\r\nTrailer: 1\r\n\r\n"
    assert ask(lambda _, writer: writer.write(content), times=2) == ([(200, b"abc" + b"d" * 100_000)] * 2, 1)


def test_hints_before_the_answer_are_passed_over() -> None:
    hint = b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"
    assert ask(lambda _, writer: writer.write(hint + sized(b"")))[0] == [(200, b"")]


@pytest.mark.parametrize(
    "head", [b"HTTP/1.1 200 OK\r\n\r\n", b"HTTP/1.0 200 OK\r\nContent-Length: 3\r\n\r\n"]
)
def test_an_answer_may_end_with_its_connection_which_is_then_made_anew(head: bytes) -> None:
    def answer(_: Asked, writer: Writer) -> None:
        writer.write(head + b"abc")
        writer.close()

    assert ask(answer, times=2) == ([(200, b"abc")] * 2, 2)


def test_a_server_that_says_it_will_close_is_not_asked_again_over_the_same_connection() -> None:
    def answer(asked: Asked, writer: Writer) -> None:
        writer.write(sized(b"yes", "200 OK", "Connection: Close"))  # and leaves it open

    assert ask(answer, times=2) == ([(200, b"yes")] * 2, 2)


def test_a_connection_that_was_closed_while_idle_is_made_anew() -> None:
    def answer(asked: Asked, writer: Writer) -> None:
        if asked.number == 1:
            writer.close()
        else:
            writer.write(sized(b"yes"))

    found, connections = ask(answer, times=2)
    assert found == [(200, b"yes")] * 2
    assert connections == 2


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "closed"),
        (b"HTTP/1.1 200", "closed"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nabc", "closed"),
        (STREAM + b"5\r\nabc", "closed"),
        (STREAM + chunk(b"abc"), "closed"),
        (b"SSH-2.0-OpenSSH\r\n", "protocol"),
        (b"HTTP/1.1 2x0 OK\r\n\r\n", "protocol"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -4\r\n\r\n", "protocol"),
        (STREAM + b"xyz\r\n", "protocol"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 100_000 + b"\r\n\r\n", "protocol"),
    ],
)
def test_what_is_no_whole_answer_is_a_fault_of_its_kind(content: bytes, kind: str) -> None:
    def answer(_: Asked, writer: Writer) -> None:
        writer.write(content)
        writer.close()

    with pytest.raises(Fault) as raised:
        ask(answer)
    assert raised.value.kind == kind


def test_nobody_there_is_a_fault_that_names_the_place() -> None:
    async def run(port: int) -> None:
        await Connection(Site("http", "127.0.0.1", port)).ask("GET", "/")

    with serving(_never) as site:
        port = site.port
    with pytest.raises(Fault, match=f"cannot connect to 127.0.0.1:{port}") as raised:
        asyncio.run(run(port))
    assert raised.value.kind == "connect"


async def _never(asked: Asked, writer: Writer) -> None:
    raise AssertionError(asked)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl, for a certificate")
def test_https_is_spoken_and_an_unknown_certificate_refused(tmp_path: Path) -> None:
    files = [tmp_path / "key.pem", tmp_path / "cert.pem"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(files[0]), "-out", str(files[1])]
    subprocess.run(command, check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(files[1], files[0])

    async def handle(_: Asked, writer: Writer) -> None:
        writer.write(told({"ok": True}))

    async def run(port: int, trusted: ssl.SSLContext | None) -> bytes:
        async with Connection(Site("https", "127.0.0.1", port), tls=trusted) as connection:
            return await (await connection.ask("GET", "/")).read()

    with serving(handle, tls) as site:
        trusted = ssl.create_default_context(cafile=str(files[1]))
        assert asyncio.run(run(site.port, trusted)) == b'{"ok": true}'
        with pytest.raises(Fault, match="certificate") as raised:
            asyncio.run(run(site.port, None))
    assert raised.value.kind == "connect"


def test_events_come_whole_however_they_are_cut() -> None:
    content = (
        ': ping\n\ndata: {"a": "ü世"}\n\nevent: x\r\ndata:one\r\ndata: two\r\n\r\nid: 3\n\ndata: [DONE]\n\n'
    ).encode()
    wanted = ['{"a": "ü世"}', "one\ntwo", "[DONE]"]
    for size in range(1, len(content) + 1):
        reader = EventReader()
        cut = [content[start : start + size] for start in range(0, len(content), size)]
        assert [data for part in cut for data in reader.feed(part)] == wanted


def test_a_half_event_is_none() -> None:
    assert EventReader().feed(b'data: {"a": 1}\n') == []
