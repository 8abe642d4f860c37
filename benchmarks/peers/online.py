"""Rows over HTTP. W2: a trace, streamed, 16 requests at a time. W3: translations, asked for at random moments."""

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from statistics import median

from app.bench.client import Client, Request
from app.bench.connection import Site
from app.bench.load import Load
from benchmarks.connection import Body, Reply, send_all
from benchmarks.measure import Claim
from benchmarks.peers.offline import FIRST_ID, SOURCES
from benchmarks.peers.process import Peers
from benchmarks.peers.servers import QUARTET, decoder, translation_loop, translator, vllm
from benchmarks.peers.shapes import MARIAN, vocabulary
from benchmarks.workloads import TraceRequest, w2_trace

NUM_CLIENTS = 16
VOCABULARY = 150_000
WARM = 4
ARRIVALS = 32.0
"""Translations a second, more than either side carries."""
Measured = dict[str, float]


def replay(port: int, model: str, trace: Sequence[TraceRequest]) -> Measured:
    """Output tokens a second; the median first token in seconds; the 99th of 100 gaps between tokens in seconds."""
    bodies: list[Body] = [
        {
            "model": model,
            "prompt": list(one.prompt),
            "max_tokens": one.num_output,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        for one in trace
    ]
    replies, seconds = send_all(port, "/v1/completions", bodies, NUM_CLIENTS)
    counted = [_usage(reply) for reply in replies]
    if counted != [one.num_output for one in trace]:
        raise RuntimeError("another number of tokens than asked for")
    gaps = sorted(
        after - before
        for reply in replies
        for before, after in zip(reply.arrivals, reply.arrivals[1:], strict=False)
    )
    return {
        "tokens/s": sum(counted) / seconds,
        "first": median(reply.arrivals[0] - reply.start for reply in replies),
        "gap": gaps[int(len(gaps) * 0.99)],
    }


def _usage(reply: Reply) -> int:
    events = reply.events()
    counted: int = next(
        event["usage"]["completion_tokens"] for event in reversed(events) if event.get("usage")
    )
    return counted


def streaming(peers: Peers, rounds: int, precisions: Sequence[str], num_requests: int) -> list[Claim]:
    """W2: against vLLM in bfloat16, `rounds` times by turns, after a short trace for warming up."""
    trace = w2_trace(VOCABULARY, num_requests, prompt=(16, 512), output=(16, 256))
    warm = w2_trace(VOCABULARY, WARM, prompt=(16, 512), output=(16, 32), seed=1)
    with ExitStack() as stack:
        theirs = stack.enter_context(vllm(peers))
        runs = {"vLLM": partial(replay, theirs.port, theirs.model)}
        for precision in precisions:
            ours = stack.enter_context(decoder(peers, precision))
            runs[precision] = partial(replay, ours.port, QUARTET)
        for run in runs.values():
            run(warm)
        found = _by_turns({name: partial(run, trace) for name, run in runs.items()}, rounds)
    claims = []
    for precision in precisions:
        name = f"W2 over HTTP, {precision} / vLLM bf16"
        must = {"bf16": 1.15, "int8": 1.8}.get(precision)
        ours_, others = found[precision], found["vLLM"]
        claims += [
            _claim(f"{name}: output", "tokens/s", ours_, others, must, "tokens/s", 1),
            _claim(f"{name}: first token, median (turned over)", "1/s", ours_, others, 1.0, "first", -1),
            _claim(f"{name}: between tokens, 99 of 100 (turned over)", "1/s", ours_, others, 2.0, "gap", -1),
        ]
    return claims


def translating(peers: Peers, rounds: int) -> list[Claim]:
    """W3: against a loop over CTranslate2, `SOURCES` texts of 10 to 60 words, each answered with as many tokens."""
    size = vocabulary(peers.checkpoint(MARIAN))
    source = random.Random(4)
    lengths = [source.randint(10, 60) for _ in range(SOURCES)]
    texts = [" ".join(f"w{source.randrange(FIRST_ID, size - 10)}" for _ in range(n)) for n in lengths]
    asked = [
        {"text": text, "target": "de", "max_tokens": n, "ignore_eos": True, "split_sentences": False}
        for text, n in zip(texts, lengths, strict=True)
    ]
    with translator(peers) as ours, translation_loop(peers) as theirs:
        runs = {"ours": partial(arrive, ours.port, asked), "theirs": partial(arrive, theirs.port, asked)}
        for run in runs.values():
            run(ARRIVALS)
        found = _by_turns({name: partial(run, ARRIVALS) for name, run in runs.items()}, rounds)
    name = "W3 over HTTP, marian int8, random arrivals / a loop over CTranslate2 int8"
    mine, others = found["ours"], found["theirs"]
    return [
        _claim(f"{name}: translations", "texts/s", mine, others, 3.0, "texts/s", 1),
        _claim(f"{name}: answered, median (turned over)", "1/s", mine, others, 3.0, "answered", -1),
    ]


def arrive(port: int, bodies: Sequence[Body], rate: float) -> Measured:
    """Each body once, at moments `rate` a second on average: texts a second from the first moment to the last answer;
    the median time from a request's moment to its answer."""
    moments = random.Random(5)
    at, requests = 0.0, list[Request]()
    for body in bodies:
        requests.append(Request(body, at=at))
        at += moments.expovariate(rate)
    client = Client(Site("http", "127.0.0.1", port))
    load = Load(lambda request, planned: client.ask("/v1/translate", request, planned))
    asyncio.run(load.open(requests))
    if faults := {one.message for one in load.outcomes if one.failure is not None}:
        raise RuntimeError(f"not all were answered: {sorted(faults)[0]}")
    return {
        "texts/s": len(bodies) / load.seconds,
        "answered": median(one.end_to_end for one in load.outcomes),
    }


def _by_turns(runs: Mapping[str, Callable[[], Measured]], rounds: int) -> dict[str, list[Measured]]:
    """Every other round goes backwards."""
    found: dict[str, list[Measured]] = {name: [] for name in runs}
    for index in range(rounds):
        for name in list(runs) if index % 2 == 0 else reversed(list(runs)):
            found[name].append(runs[name]())
    return found


def _claim(
    name: str,
    unit: str,
    ours: Sequence[Measured],
    theirs: Sequence[Measured],
    must: float | None,
    what: str,
    power: int,
) -> Claim:
    """Waiting times are turned into speeds, so that more is better in every row."""
    mine, others = ([one[what] ** power for one in side] for side in (ours, theirs))
    return Claim(name, unit, mine, others, must)
