"""What the process that clients are connected to spends on a streamed token, by its processor time: the engine computes
nothing, so that nothing else is measured, and says as many tokens a second whatever the number of streams.
"""

import asyncio
import json

from benchmarks.connection import Body
from benchmarks.echo_engine import MOST_TOKENS
from benchmarks.line_process import ROOT
from benchmarks.measure import Claim, Options, Report
from benchmarks.service import Service
from benchmarks.workloads import sentences

STREAMS = (16, 64, 256)
MOST_MICROSECONDS = 200.0
"""A token: 5,000 tokens a second on a core."""
PATHS = ("/v1/completions", "/v1/generate")
LEAST_EVENTS = 8
"""Of each stream, before anything is measured."""
START_SECONDS = 60.0


def run(options: Options) -> Report:
    """At each number of streams, for some seconds in their midst."""
    seconds = 5.0 if options.is_full else 2.0
    claims: list[Claim] = []
    details: dict[str, object] = {}
    serve = ["--model", f"writer={ROOT}/model/zoo/writer", "--max-queue-tokens", str(10**9)]
    with Service([*serve, *options.serve], program="benchmarks.echo_engine") as service:
        for path in PATHS:
            for count in STREAMS:
                found = [asyncio.run(_measure(service, path, count, seconds)) for _ in range(options.pairs)]
                costs = [1e6 * used / tokens for used, tokens, _ in found]
                name = f"a streamed token, {count} streams of {path}"
                claims.append(Claim(name, "µs", costs, target=MOST_MICROSECONDS))
                details[name] = {
                    "tokens_a_second_on_a_core": round(1e6 / min(costs)),
                    "tokens_a_second": round(found[0][1] / seconds),
                    "tokens_an_event": round(found[0][1] / found[0][2], 3),
                }
    return Report("stream_cost", claims, details)


async def _measure(service: Service, path: str, count: int, seconds: float) -> tuple[float, float, int]:
    """Seconds of processor time, tokens that the service got, events that clients got."""
    loop, text = asyncio.get_running_loop(), " ".join(sentences())
    bodies = [
        {"model": "writer", "prompt": text[i % 64 :], "max_tokens": MOST_TOKENS // 2, "stream": True}
        for i in range(count)
    ]
    readers = [_Reader(path, body) for body in bodies]
    for reader in readers:
        await loop.create_connection(lambda one=reader: one, "127.0.0.1", service.port)  # type: ignore[misc]
    async with asyncio.timeout(START_SECONDS):
        await asyncio.gather(*(reader.is_going for reader in readers))
    tokens = await asyncio.to_thread(service.metric, "quartet_batch_tokens_sum")
    events, used = sum(reader.num_events for reader in readers), service.processor_seconds()
    await asyncio.sleep(seconds)
    events, used = (
        sum(reader.num_events for reader in readers) - events,
        service.processor_seconds() - used,
    )
    tokens = await asyncio.to_thread(service.metric, "quartet_batch_tokens_sum") - tokens
    for reader in readers:
        reader.transport.abort()
    await asyncio.sleep(0.2)
    return used, tokens, events


class _Reader(asyncio.Protocol):
    """One stream, of which the events are counted: so cheap that it is not what is measured."""

    def __init__(self, path: str, body: Body) -> None:
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        self._request = f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content
        self.num_events = 0
        self.is_going: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.num_events += data.count(b"data: ")
        if self.is_going.done():
            return
        if data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 200"):
            self.is_going.set_exception(RuntimeError(data.decode(errors="replace")))
        elif self.num_events >= LEAST_EVENTS:
            self.is_going.set_result(None)
