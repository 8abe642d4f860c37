"""A small HTTP/1.1 client over asyncio streams: the measured machine's cores belong to the service."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

Body = dict[str, Any]


@dataclass(frozen=True)
class Reply:
    """`start`, `end` and `arrivals`, of the body's pieces as they came, are perf_counter times in seconds."""

    content: bytes
    start: float
    arrivals: list[float]
    end: float

    def json(self) -> Any:
        return json.loads(self.content)

    def events(self) -> list[Any]:
        """The decoded `data:` events of a stream, without the closing `[DONE]`."""
        lines = [line[5:].strip() for line in self.content.split(b"\n") if line.startswith(b"data:")]
        if not lines or lines[-1] != b"[DONE]":
            raise RuntimeError("the stream did not end with [DONE]")
        return [json.loads(line) for line in lines[:-1]]


class Connection:
    """One keep-alive connection; one request at a time, each with the `key`, if there is one."""

    def __init__(self, port: int, key: str = "") -> None:
        self._port = port
        self._key = f"Authorization: Bearer {key}\r\n" if key else ""

    async def __aenter__(self) -> "Connection":
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port, limit=2**20)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()
        await self._writer.wait_closed()

    async def get(self, path: str) -> bytes:
        """The body. Raises RuntimeError for any status but 200."""
        self._writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        status = int((await self._reader.readline()).split()[1])
        content = await self._reader.readexactly(int((await self._headers())["content-length"]))
        if status != 200:
            raise RuntimeError(f"{path} answered {status}: {content[:500].decode(errors='replace')}")
        return content

    async def post(self, path: str, body: Body, heard: Callable[[int], None] | None = None) -> Reply:
        """`heard` is told how many pieces of the body have come. Raises RuntimeError for any status but 200."""
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n{self._key}"
        start = time.perf_counter()
        self._writer.write(head.encode() + b"Content-Length: %d\r\n\r\n" % len(data) + data)
        await self._writer.drain()
        status = int((await self._reader.readline()).split()[1])
        headers = await self._headers()
        if "content-length" in headers:
            content = await self._reader.readexactly(int(headers["content-length"]))
            arrivals = [time.perf_counter()]
        else:
            content, arrivals = await self._chunks(heard)
        if status != 200:
            raise RuntimeError(f"{path} answered {status}: {content[:500].decode(errors='replace')}")
        return Reply(content, start, arrivals, time.perf_counter())

    async def _headers(self) -> dict[str, str]:
        headers = {}
        while (line := await self._reader.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.strip().lower()] = value.strip()
        return headers

    async def _chunks(self, heard: Callable[[int], None] | None) -> tuple[bytes, list[float]]:
        pieces, arrivals = [], []
        while size := int(await self._reader.readline(), 16):
            pieces.append(await self._reader.readexactly(size))
            arrivals.append(time.perf_counter())
            if heard is not None:
                heard(len(arrivals))
            await self._reader.readexactly(2)
        await self._reader.readexactly(2)
        return b"".join(pieces), arrivals


def send_all(port: int, path: str, bodies: Sequence[Body], clients: int) -> tuple[list[Reply], float]:
    """Every body once, `clients` connections each taking the next one. Replies in order; seconds in all.

    The connections are open before the clock starts.
    """
    return asyncio.run(_send_all(port, path, bodies, clients))


async def _send_all(port: int, path: str, bodies: Sequence[Body], clients: int) -> tuple[list[Reply], float]:
    waiting = iter(range(len(bodies)))
    replies: dict[int, Reply] = {}

    async def work(connection: Connection) -> None:
        for index in waiting:
            replies[index] = await connection.post(path, bodies[index])

    connections = [Connection(port) for _ in range(min(clients, len(bodies)))]
    await _each(connection.__aenter__() for connection in connections)
    try:
        start = time.perf_counter()
        await _each(work(connection) for connection in connections)
        seconds = time.perf_counter() - start
    finally:
        await _each(connection.__aexit__() for connection in connections)
    return [replies[index] for index in range(len(bodies))], seconds


async def _each(calls: Iterable[Awaitable[object]]) -> None:
    await asyncio.gather(*calls)
