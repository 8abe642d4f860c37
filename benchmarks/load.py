"""Many requests at their own moments, over raw asyncio protocols: a generator cheap enough to share a machine with what
it measures, and that tells how late it was itself."""

import asyncio
import json
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import quantiles

from benchmarks.connection import Body

HEAD = b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
TICK = 0.01
"""Seconds between two looks at how late this process's own loop is."""
LAST_WORDS = 1.0
"""Seconds that requests have at the end to be begun or refused, until they are left."""


@dataclass(frozen=True)
class Work:
    """What is asked for: the `number`-th prompt, and how many tokens are generated for it."""

    model: str
    prompt: Callable[[int], list[int]]
    num_tokens: Callable[[int], int]

    def request(self, number: int) -> bytes:
        """A streamed text, in bytes."""
        body: Body = {"model": self.model, "prompt": self.prompt(number), "temperature": 0}
        body |= {"max_tokens": self.num_tokens(number), "ignore_eos": True, "stream": True}
        content = json.dumps(body).encode()
        return HEAD + b"Content-Length: %d\r\n\r\n" % len(content) + content


@dataclass
class Outcome:
    """One request: when it was sent and how long after its moment, its tokens, its status, and seconds since it was
    sent until its head, its first token and its end."""

    sent: float
    late: float
    num_tokens: int
    status: int = 0
    answered: float = 0.0
    first: float | None = None
    end: float | None = None

    def part(self, begin: float, end: float) -> float:
        """Of a whole answer, how much of the time from its first token to its end is within these moments."""
        if self.first is None or self.end is None:
            return 0.0
        first, last = self.sent + self.first, max(self.sent + self.end, self.sent + self.first + 1e-6)
        return max(0.0, min(last, end) - max(first, begin)) / (last - first)


@dataclass
class Load:
    """What came of many, from `begin` on; `lags` are seconds that the generator's loop was late by."""

    begin: float
    seconds: float
    outcomes: list[Outcome] = field(default_factory=list)
    lags: list[float] = field(default_factory=list)

    def speed(self) -> tuple[float, float]:
        """Texts and tokens a second of whole answers, in the last three quarters of the time: of each as much as falls
        into it between its first token and its end."""
        begin, end = self.begin + self.seconds / 4, self.begin + self.seconds
        parts = [(one, one.part(begin, end)) for one in self.outcomes]
        texts, tokens = sum(part for _, part in parts), sum(part * one.num_tokens for one, part in parts)
        return texts / (end - begin), tokens / (end - begin)

    def statuses(self) -> dict[int, int]:
        """How many had each; 0: none in time."""
        found = [one.status for one in self.outcomes]
        return {status: found.count(status) for status in sorted(set(found))}


class _Asker(asyncio.Protocol):
    """One request over a connection of its own; `done` when its answer is over or the connection is."""

    def __init__(self, request: bytes, outcome: Outcome) -> None:
        self._request, self._outcome = request, outcome
        self._tail = b""
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        outcome, passed = self._outcome, time.perf_counter() - self._outcome.sent
        if not outcome.status:
            outcome.status, outcome.answered = int(data[9:12]), passed
            if outcome.status != 200:
                self._transport.abort()
                return
        if outcome.first is None and b"data: " in data:
            outcome.first = passed
        self._tail = self._tail[-16:] + data[-32:]
        if b"data: [DONE]" in self._tail:
            outcome.end = passed
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


async def closed_loop(port: int, work: Work, num_clients: int, seconds: float) -> Load:
    """Each client sends its next request when it has the answer to the last one."""
    load, numbers = Load(time.perf_counter(), seconds), iter(range(10**9))

    async def client() -> None:
        while time.perf_counter() < load.begin + seconds:
            await _ask(port, work, next(numbers), time.perf_counter(), load)

    await _finish([asyncio.create_task(client()) for _ in range(num_clients)], seconds)
    return load


async def open_loop(port: int, work: Work, rate: float, seconds: float) -> Load:
    """Requests come at random moments, whatever becomes of those before. Those that still wait at the end are left."""
    load, moments = Load(time.perf_counter(), seconds), random.Random(0)
    ticking = asyncio.create_task(_tick(load))
    moment, asked = load.begin, list[asyncio.Task[None]]()
    while (moment := moment + moments.expovariate(rate)) < load.begin + seconds:
        if moment > time.perf_counter():
            await asyncio.sleep(moment - time.perf_counter())
        asked.append(asyncio.create_task(_ask(port, work, len(asked), moment, load)))
    ticking.cancel()
    await asyncio.sleep(LAST_WORDS)
    for task, outcome in zip(asked, load.outcomes, strict=True):
        if outcome.first is None:
            task.cancel()
    await _finish(asked, seconds)
    return load


async def _finish(asked: list["asyncio.Task[None]"], seconds: float) -> None:
    """All that is at work, as long as it took at most."""
    _, late = await asyncio.wait(asked, timeout=2 * seconds)
    for one in late:
        one.cancel()
    await asyncio.gather(*asked, return_exceptions=True)


async def _ask(port: int, work: Work, number: int, moment: float, load: Load) -> None:
    request = work.request(number)
    now = time.perf_counter()
    outcome = Outcome(now, now - moment, work.num_tokens(number))
    load.outcomes.append(outcome)
    try:
        transport, asker = await asyncio.get_running_loop().create_connection(
            lambda: _Asker(request, outcome), "127.0.0.1", port
        )
    except OSError:
        return  # what has not come is told by the outcome
    try:
        await asker.done
    finally:
        transport.abort()


async def _tick(load: Load) -> None:
    while True:
        before = time.perf_counter()
        await asyncio.sleep(TICK)
        load.lags.append(time.perf_counter() - before - TICK)


def percentile(values: list[float], percent: int) -> float:
    """0 where there are none."""
    if len(values) < 2:
        return values[0] if values else 0.0
    return quantiles(values, n=100)[percent - 1]
