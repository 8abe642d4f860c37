"""The decoder of 0.5 B from a warm page cache: how long until it serves, and what it takes of memory."""

import json
from urllib.request import urlopen

from benchmarks.measure import Claim
from benchmarks.peers.online import NUM_CLIENTS, VOCABULARY, replay
from benchmarks.peers.process import Peers
from benchmarks.peers.servers import QUARTET, decoder, llama
from benchmarks.service import Service
from benchmarks.workloads import w2_trace

READY_SECONDS = 5.0
MOST_MIB = 450.0
"""Over both processes, beside weights and cache."""
CACHE_MIB = 64
"""Less than the work takes at once, so that all of it is in use."""
GGUF = {"bf16": "BF16", "int8": "Q8_0", "int4": "Q4_0"}
"""What llama.cpp reads ready-made; ours makes int8 and int4 of the bfloat16 weights as it starts."""


def run(peers: Peers, rounds: int, precisions: list[str]) -> list[Claim]:
    """One uncounted start each, then by turns with llama-server."""
    claims = []
    for precision in precisions:
        ours, theirs, beside = list[float](), list[float](), list[float]()
        for number in range(rounds + 1):
            with llama(peers, GGUF[precision]) as server:
                theirs.append(server.seconds_to_ready)
            with decoder(peers, precision, "--kv-cache-memory", str(CACHE_MIB * 2**20)) as service:
                ours.append(service.seconds_to_ready)
                if number:
                    beside.append(_beside(service))
        name = f"start to ready, {precision}"
        claims += [
            Claim(name, "s", ours[1:], target=READY_SECONDS),
            Claim(
                f"{name} / llama-server {GGUF[precision]} (turned over)",
                "1/s",
                [1 / seconds for seconds in ours[1:]],
                [1 / seconds for seconds in theirs[1:]],
            ),
            Claim(f"memory beside weights and cache, {precision}", "MiB", beside, target=MOST_MIB),
        ]
    return claims


def _beside(service: Service) -> float:
    """MiB of both processes once they have worked, pages that they share counted once, less weights and cache."""
    replay(service.port, QUARTET, w2_trace(VOCABULARY, NUM_CLIENTS, prompt=(256, 512), output=(8, 16)))
    with urlopen(f"http://127.0.0.1:{service.port}/info", timeout=5) as answer:
        (model,) = json.loads(answer.read())["models"]
    assert model["id"] == QUARTET
    weights: int = model["bytes"]
    return service.memory()["proportional_mib"] - weights / 2**20 - CACHE_MIB
