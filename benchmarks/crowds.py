"""Clients that hold connections and do nothing with them: what others notice, and what it costs the service."""

import asyncio
import json
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from statistics import quantiles

from benchmarks.connection import Body, Connection
from benchmarks.measure import Claim, Options, Report
from benchmarks.service import Service

MOST_SECONDS = 1.0
HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
CLASSIFIED: Body = {"model": "intent", "text": "when does my train leave?"}
TOLD: Body = {"model": "writer", "prompt": [401] * 8, "max_tokens": 200, "temperature": 0, "stream": True}

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def run(options: Options) -> Report:
    """Each crowd keeps its connections open while health and classification are asked for again and again."""
    idlers, readers, seconds = (2000, 500, 15.0) if options.is_full else (400, 50, 3.0)
    claims: list[Claim] = []
    details: dict[str, object] = {}
    with Service(options.serve) as service:
        for what, count, act in (
            ("that send nothing", idlers, _nothing),
            ("with half a request line", idlers, _half_a_line),
            ("whose bodies trickle", idlers, _trickle),
            ("that never read their streams", readers, _no_stream),
        ):
            before = service.memory()["resident_mib"]
            seen = asyncio.run(_beside(service, count, act, seconds))
            claims += [
                Claim(
                    f"{asked} beside {count} {what}, 95 of 100",
                    "s",
                    [_most(seen[asked])],
                    target=MOST_SECONDS,
                )
                for asked in ("health", "classify")
            ]
            service.wait_ready()
            details[what] = {
                "asked": len(seen["health"]),
                "longest_s": [round(max(seen[asked]), 3) for asked in ("health", "classify")],
                "open_files": seen["files"],
                "resident_mib_more": [round(mib - before, 1) for mib in seen["memory"]],
            }
    return Report("crowds", claims, details)


async def _beside(
    service: Service, count: int, act: Callable[[Stream], Awaitable[None]], seconds: float
) -> dict[str, list[float]]:
    """What a well-behaved client sees meanwhile; open files and memory at the busiest, and when all have left."""
    streams = [await asyncio.open_connection("127.0.0.1", service.port, limit=2**14) for _ in range(count)]
    acting = [asyncio.create_task(_quietly(act, stream)) for stream in streams]
    seen: dict[str, list[float]] = {"health": [], "classify": [], "files": [], "memory": []}
    end = time.perf_counter() + seconds
    files, memory = 0, 0.0
    while time.perf_counter() < end:
        async with Connection(service.port) as connection:
            start = time.perf_counter()
            await connection.get("/health")
            seen["health"].append(time.perf_counter() - start)
            start = time.perf_counter()
            await connection.post("/v1/classify", CLASSIFIED)
            seen["classify"].append(time.perf_counter() - start)
        files, memory = max(files, service.num_files()), max(memory, service.memory()["resident_mib"])
        await asyncio.sleep(0.1)
    for task in acting:
        task.cancel()
    for _, writer in streams:
        writer.transport.abort()
    await asyncio.sleep(1.0)
    seen["files"], seen["memory"] = [files, service.num_files()], [memory, service.memory()["resident_mib"]]
    return seen


def _most(values: list[float]) -> float:
    return quantiles(values, n=20)[-1]


async def _quietly(act: Callable[[Stream], Awaitable[None]], stream: Stream) -> None:
    with suppress(OSError):  # it was cut off, as it should be
        await act(stream)


async def _nothing(stream: Stream) -> None:
    await asyncio.sleep(3600)


async def _half_a_line(stream: Stream) -> None:
    stream[1].write(b"POST /v1/comp")
    await asyncio.sleep(3600)


async def _trickle(stream: Stream) -> None:
    stream[1].write(HEAD + b"Content-Length: 1000\r\n\r\n")
    while True:
        stream[1].write(b" ")
        await asyncio.sleep(1.0)


async def _no_stream(stream: Stream) -> None:
    stream[1].transport.pause_reading()  # type: ignore[attr-defined]
    content = json.dumps(TOLD).encode()
    stream[1].write(HEAD + b"Content-Length: %d\r\n\r\n" % len(content) + content)
    await asyncio.sleep(3600)
