"""Ten times the load that can be carried, for a minute: what still gets done, and how fast the rest is told no."""

import asyncio
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.load import Work, closed_loop, open_loop, percentile
from benchmarks.measure import Claim, Options, Report
from benchmarks.peers.shapes import QWEN, vocabulary, write
from benchmarks.service import AS_IF_NEW, Service
from benchmarks.workloads import w2_trace

TIMES = 10
"""Of what is carried."""
NUM_CLIENTS, NUM_LARGE = 64, 16
"""Who find out what that is, each with one request after the other."""
MOST_REFUSAL = 0.1
"""Seconds, for 99 of 100 refusals."""
MOST_LATE = 0.02
"""Seconds, for 99 of 100 requests: a generator that is later measures itself."""


def run(options: Options) -> Report:
    """First as much as some clients get done, then an open loop of `TIMES` as many a second.

    The packaged writer generates 64 tokens for each prompt of 8. With `options.is_large` a checkpoint of the shape of
    Qwen2.5-0.5B with random weights works on W2's lengths, or in the short form on a quarter of them.
    """
    seconds = 60.0 if options.is_full else 20.0
    with ExitStack() as stack:
        if options.is_large:
            folder = write(QWEN, Path(stack.enter_context(tempfile.TemporaryDirectory())))
            work, clients, least = _w2(vocabulary(folder), 1 if options.is_full else 4), NUM_LARGE, 0.9
            serve: tuple[str, ...] = ("--model", f"{QWEN}={folder}")
            seconds *= 5.0 if options.is_full else 3.0
        else:
            work, clients, least, serve = Work("writer", _short, lambda _: 64), NUM_CLIENTS, 0.75, ()
        service = stack.enter_context(Service((*serve, *options.serve, *AS_IF_NEW), timeout=600.0))
        warming = asyncio.run(closed_loop(service.port, work, clients, seconds / 6))
        peak = asyncio.run(closed_loop(service.port, work, clients, seconds))
        texts, tokens = peak.speed()
        if not texts:
            raise RuntimeError(f"no text is done within {peak.seconds:g} s: {peak.statuses()}")
        before = service.metric("quartet_rejected_total")
        load = asyncio.run(open_loop(service.port, work, TIMES * texts, seconds))
        refused = service.metric("quartet_rejected_total") - before
        start = time.perf_counter()
        while service.metric("quartet_requests_running") + service.metric("quartet_requests_waiting"):
            time.sleep(0.05)
        emptied = time.perf_counter() - start
        after = asyncio.run(closed_loop(service.port, work, clients, seconds))
    refusals = [one.answered for one in load.outcomes if one.status == 429]
    firsts = [one.first for one in load.outcomes if one.first is not None]
    late = [one.late for one in load.outcomes]
    claims = [
        Claim(
            f"tokens of texts done under {TIMES} times the load / at best",
            "1/s",
            [load.speed()[1]],
            [tokens],
            least,
        ),
        Claim("99 of 100 refusals are told within", "s", [percentile(refusals, 99)], target=MOST_REFUSAL),
        Claim("99 of 100 first tokens of those admitted come within", "s", [percentile(firsts, 99)]),
        Claim("texts done after it / at best", "1/s", [after.speed()[1]], [tokens], least),
        Claim("refusals that the service counts / that clients got", "", [refused], [max(1, len(refusals))]),
        Claim("the generator sends 99 of 100 late by", "s", [percentile(late, 99)], target=MOST_LATE),
    ]
    details: dict[str, Any] = {
        "model": QWEN if options.is_large else "writer",
        "seconds": seconds,
        "sent_a_second": TIMES * texts,
        "statuses": load.statuses(),
        "statuses_at_best": peak.statuses(),
        "done_at_first": len(warming.outcomes),
        "empty_after_s": round(emptied, 2),
        "refused_within_s": _spread(refusals),
        "first_token_s": _spread(firsts),
        "generator_late_s": _spread(late),
        "generator_lags_s": _spread(load.lags),
    }
    return Report("overload_large" if options.is_large else "overload", claims, details)


def _short(number: int) -> list[int]:
    return [400 + number % 4000] * 8


def _w2(vocab_size: int, divisor: int) -> Work:
    """Of its lengths a part."""
    trace = w2_trace(vocab_size, 256, (16 // divisor, 512 // divisor), (16 // divisor, 256 // divisor))
    return Work(
        QWEN,
        lambda number: list(trace[number % len(trace)].prompt),
        lambda number: trace[number % len(trace)].num_output,
    )


def _spread(values: list[float]) -> dict[str, float]:
    return {str(part): round(percentile(values, part), 4) for part in (50, 90, 99)}
