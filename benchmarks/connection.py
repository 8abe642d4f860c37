"""One service on this machine, asked as the measurements need it: over `quartet bench`'s client, whole replies kept."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from app.bench import connection
from app.bench.connection import Site
from app.bench.routes import Body as Body


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
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._connection = connection.Connection(Site("http", "127.0.0.1", port), headers)

    async def __aenter__(self) -> "Connection":
        await self._connection.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._connection.close()

    async def get(self, path: str) -> bytes:
        """The body. Raises RuntimeError for any status but 200."""
        answer = await self._connection.ask("GET", path)
        return _checked(path, answer.status, await answer.read())

    async def post(self, path: str, body: Body, heard: Callable[[int], None] | None = None) -> Reply:
        """`heard` is told how many pieces of the body have come. Raises RuntimeError for any status but 200."""
        content = json.dumps(body).encode()
        start = time.perf_counter()
        answer = await self._connection.ask("POST", path, content)
        pieces, arrivals = [], []
        async for piece in answer.pieces():
            pieces.append(piece)
            arrivals.append(time.perf_counter())
            if heard is not None:
                heard(len(arrivals))
        return Reply(_checked(path, answer.status, b"".join(pieces)), start, arrivals, time.perf_counter())


def _checked(path: str, status: int, content: bytes) -> bytes:
    if status != 200:
        raise RuntimeError(f"{path} answered {status}: {content[:500].decode(errors='replace')}")
    return content


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
