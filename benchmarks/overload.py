"""Ten times the load that can be carried, for a minute: what still gets done, and how fast the rest is told no."""

import asyncio
import json
import random
import time
from dataclasses import dataclass, field
from statistics import quantiles
from typing import Any

from benchmarks.connection import Body
from benchmarks.measure import Claim, Options, Report
from benchmarks.service import AS_IF_NEW, Service

NUM_TOKENS = 64
TIMES = 10
"""Of what is carried."""
NUM_CLIENTS = 64
"""Who find out what that is, each with one request after the other."""
LEAST_PART = 0.75
"""Of the best throughput, under overload."""
MOST_REFUSAL = 0.1
"""Seconds, for 99 of 100 refusals."""


@dataclass
class Outcome:
    """One request: its status, and times in seconds since it was to be sent; the first token's and the end's."""

    start: float
    status: int = 0
    answered: float = 0.0
    first: float | None = None
    end: float | None = None


@dataclass
class Load:
    """What came of many."""

    seconds: float
    outcomes: list[Outcome] = field(default_factory=list)

    def done(self) -> list[Outcome]:
        """Whole answers that came in time."""
        limit = self.outcomes[0].start + self.seconds
        return [one for one in self.outcomes if one.end is not None and one.start + one.end <= limit]

    def statuses(self) -> dict[int, int]:
        found = [one.status for one in self.outcomes]
        return {status: found.count(status) for status in sorted(set(found))}


def run(options: Options) -> Report:
    """First as much as `NUM_CLIENTS` clients get done, then an open loop of `TIMES` as many a second."""
    seconds = 60.0 if options.is_full else 10.0
    with Service((*options.serve, *AS_IF_NEW)) as service:
        asyncio.run(closed_loop(service.port, 3.0))
        peak = asyncio.run(closed_loop(service.port, seconds / 3))
        rate = len(peak.done()) / peak.seconds
        load = asyncio.run(open_loop(service.port, TIMES * rate, seconds))
        start = time.perf_counter()
        while service.metric("quartet_requests_running") + service.metric("quartet_requests_waiting"):
            time.sleep(0.05)
        emptied = time.perf_counter() - start
        after = asyncio.run(closed_loop(service.port, seconds / 6))
    refusals = [one.answered for one in load.outcomes if one.status == 429]
    firsts = [one.first for one in load.outcomes if one.first is not None]
    claims = [
        Claim(
            f"texts of {NUM_TOKENS} tokens done under {TIMES} times the load / at best",
            "1/s",
            [len(load.done()) / load.seconds],
            [rate],
            LEAST_PART,
        ),
        Claim("99 of 100 refusals are told within", "s", [percentile(refusals, 99)], target=MOST_REFUSAL),
        Claim("time to the first token of those admitted, 99 of 100", "s", [percentile(firsts, 99)]),
        Claim(
            "texts done after it / at best", "1/s", [len(after.done()) / after.seconds], [rate], LEAST_PART
        ),
    ]
    details: dict[str, Any] = {
        "seconds": seconds,
        "sent_a_second": TIMES * rate,
        "statuses": load.statuses(),
        "empty_after_s": round(emptied, 2),
        "refused_within_s": {str(n): percentile(refusals, n) for n in (50, 90, 99)},
        "first_token_s": {str(n): percentile(firsts, n) for n in (50, 90, 99)},
        "ended_without_answer": sum(one.end is None for one in load.outcomes if one.status == 200),
    }
    return Report("overload", claims, details)


async def closed_loop(port: int, seconds: float) -> Load:
    """Each client sends its next request when it has the answer to the last one."""
    load, end = Load(seconds), time.perf_counter() + seconds

    async def client(number: int) -> None:
        while time.perf_counter() < end:
            load.outcomes.append(await ask(port, number))

    await asyncio.gather(*map(client, range(NUM_CLIENTS)))
    load.outcomes.sort(key=lambda one: one.start)
    return load


async def open_loop(port: int, rate: float, seconds: float) -> Load:
    """Requests come at random moments, whatever becomes of those before. Those still at work at the end are left."""
    load, moments = Load(seconds), random.Random(0)
    asked: list[asyncio.Task[Outcome]] = []
    moment = begin = time.perf_counter()
    while moment < begin + seconds:
        moment += moments.expovariate(rate)
        await asyncio.sleep(moment - time.perf_counter())
        asked.append(asyncio.create_task(ask(port, len(asked))))
    _, late = await asyncio.wait(asked, timeout=1.0)
    for one in late:
        one.cancel()
    load.outcomes = await asyncio.gather(*asked)
    return load


async def ask(port: int, number: int) -> Outcome:
    """One streamed text, over a connection of its own."""
    body: Body = {"model": "writer", "prompt": [400 + number % 4000] * 8, "max_tokens": NUM_TOKENS}
    content = json.dumps(body | {"temperature": 0, "ignore_eos": True, "stream": True}).encode()
    outcome = Outcome(time.perf_counter())
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            head = "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            writer.write(head.encode() + b"Content-Length: %d\r\n\r\n" % len(content) + content)
            await _listen(reader, outcome)
        finally:
            writer.close()
    except (OSError, asyncio.CancelledError):
        pass  # what has not come is told by the outcome
    return outcome


async def _listen(reader: asyncio.StreamReader, outcome: Outcome) -> None:
    outcome.status = int((await reader.readline()).split()[1])
    outcome.answered = time.perf_counter() - outcome.start
    while outcome.status == 200 and (line := await reader.readline()):
        if line.startswith(b"data: "):
            passed = time.perf_counter() - outcome.start
            outcome.first = outcome.first or passed
            if line.startswith(b"data: [DONE]"):
                outcome.end = passed
                return


def percentile(values: list[float], percent: int) -> float:
    """0 where there are none."""
    if len(values) < 2:
        return values[0] if values else 0.0
    return quantiles(values, n=100)[percent - 1]
