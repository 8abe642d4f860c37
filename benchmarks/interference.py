"""What open streams feel when a large request arrives: a thousand texts to classify, or long prompts."""

import asyncio
from collections.abc import Callable, Sequence
from statistics import fmean, quantiles

from benchmarks.connection import Body, Connection, Reply
from benchmarks.measure import Claim, Options, Report, alternate
from benchmarks.service import AS_IF_NEW, Service
from benchmarks.workloads import mixed_lengths, mixed_texts, sentences, w2_trace

NUM_STREAMS = 4
SETTLED = 20
"""Tokens of each stream before the other request is sent."""
MOST = 3.0
"""How much longer the gaps between tokens may get on average."""


def run(options: Options) -> Report:
    """Mean gaps between the tokens of four streams on `writer`, quiet and while something large is worked on."""
    count, tokens = (1000, 600) if options.is_full else (200, 200)
    words = sorted({word for sentence in sentences() for word in sentence.lower().strip(".").split()})
    texts: Body = {"model": "sentiment", "text": mixed_texts(words, mixed_lengths(count))}
    prompts: list[Body] = [
        {"model": "writer", "prompt": list(request.prompt), "max_tokens": 1, "temperature": 0}
        for request in w2_trace(8000, 8, prompt=(900, 960), output=(1, 1))
    ]
    with Service((*options.serve, *AS_IF_NEW)) as service:
        gaps = alternate(
            {
                "quiet": lambda: watch(service.port, tokens, "", []),
                "classification": lambda: watch(service.port, tokens, "/v1/classify", [texts]),
                "prompts": lambda: watch(service.port, tokens, "/v1/completions", prompts),
            },
            options.pairs,
        )
        worst = {
            name: longest(service.port, tokens, path, bodies)
            for name, path, bodies in (
                ("quiet", "", []),
                ("classification", "/v1/classify", [texts]),
                ("prompts", "/v1/completions", prompts),
            )
        }
    claims = [
        Claim("gap between tokens, quiet", "ms", [1000 * gap for gap in gaps["quiet"]]),
        *(
            Claim(f"gap while {what} / quiet", "ratio", ratios(gaps[name], gaps["quiet"]), target=MOST)
            for name, what in (
                ("classification", f"{count} texts are classified"),
                ("prompts", "8 long prompts come"),
            )
        ),
    ]
    return Report("interference", claims, {"gap_percentile_99_ms": worst})


def ratios(ours: Sequence[float], quiet: Sequence[float]) -> list[float]:
    return [a / b for a, b in zip(ours, quiet, strict=True)]


def watch(port: int, tokens: int, path: str, bodies: Sequence[Body]) -> float:
    """The mean gap in seconds."""
    return fmean(gaps_while(port, tokens, path, bodies))


def longest(port: int, tokens: int, path: str, bodies: Sequence[Body]) -> float:
    """The 99th percentile of the gaps, in milliseconds."""
    return round(1000 * quantiles(gaps_while(port, tokens, path, bodies), n=100)[-1], 1)


def gaps_while(port: int, tokens: int, path: str, bodies: Sequence[Body]) -> list[float]:
    """Seconds between a stream's tokens while `bodies` are worked on; without any, between all of them."""
    streams, others = asyncio.run(_run(port, tokens, path, bodies))
    begin = min((reply.start for reply in others), default=0.0)
    end = max((reply.end for reply in others), default=float("inf"))
    gaps = []
    for stream in streams:
        pairs = zip(stream.arrivals[1:], stream.arrivals, strict=False)
        gaps += [later - earlier for later, earlier in pairs if begin <= later and earlier <= end]
    return gaps


async def _run(port: int, tokens: int, path: str, bodies: Sequence[Body]) -> tuple[list[Reply], list[Reply]]:
    """All streams, and what was sent once each of them had begun."""
    settled = asyncio.Semaphore(0)

    async def stream(number: int) -> Reply:
        body: Body = {"model": "writer", "prompt": [400 + number] * 8, "max_tokens": tokens, "temperature": 0}
        body |= {"ignore_eos": True, "stream": True}
        async with Connection(port) as connection:
            return await connection.post("/v1/completions", body, _countdown(settled))

    async def disturb(body: Body) -> Reply:
        async with Connection(port) as connection:
            return await connection.post(path, body)

    running = [asyncio.create_task(stream(number)) for number in range(NUM_STREAMS)]
    for _ in running:
        await settled.acquire()
    others = await asyncio.gather(*map(disturb, bodies))
    return await asyncio.gather(*running), list(others)


def _countdown(settled: asyncio.Semaphore) -> Callable[[int], None]:
    def heard(count: int) -> None:
        if count == SETTLED:
            settled.release()

    return heard
