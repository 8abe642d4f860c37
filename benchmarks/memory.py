"""What an engine grows to by batches of ever new sizes, and how fast it is with oneDNN's caches of products bounded.

Each run is a process of its own with one thread; its speed is by its processor time, so that other work counts less.
"""

import json
import os
import random
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import psutil

from app.engine import memory
from app.engine.build import build_engine
from app.engine.protocol import EncodeRequest, GenerateRequest, ModelSpec, WorkerConfig
from app.engine.sampling_params import SamplingParams
from benchmarks.measure import Claim, Options, Report, alternate

ZOO = Path(__file__).parents[1] / "model" / "zoo"
LEAST_SPEED, MOST_SIZE = 0.97, 0.75
"""Bounded, of what it is otherwise."""


def run(options: Options) -> Report:
    """Short texts embedded and translated, up to 24 at once, as in `work`."""
    rounds = 120 if options.is_full else 40
    sizes: dict[str, list[float]] = {"bounded": [], "as shipped": []}
    speeds = alternate(
        {name: partial(_run, name, rounds, found) for name, found in sizes.items()}, options.pairs
    )
    ratios = [ours / theirs for ours, theirs in zip(*sizes.values(), strict=True)]
    claims = [
        Claim(
            "tokens a second of processor time", "1/s", speeds["bounded"], speeds["as shipped"], LEAST_SPEED
        ),
        Claim("resident at the end, of what it is otherwise", "x", ratios, target=MOST_SIZE),
    ]
    return Report("memory", claims, {name: [round(mib) for mib in found] for name, found in sizes.items()})


def _run(name: str, rounds: int, sizes: list[float]) -> float:
    child = subprocess.run(
        [sys.executable, "-m", "benchmarks.memory", name, str(rounds)], capture_output=True, check=True
    )
    told = json.loads(child.stdout)
    sizes.append(told["mib"])
    return float(told["speed"])


def work(rounds: int) -> dict[str, float]:
    """One process's part: MiB resident at the end, tokens a second."""
    models = [ModelSpec(name, str(ZOO / name)) for name in ("minilm", "translator")]
    engine = build_engine(WorkerConfig(models=models, device="cpu", kv_cache_memory=2**26, threads=1))
    source, start = random.Random(0), time.process_time()
    num_requests = num_tokens = 0
    for _ in range(rounds):
        for _ in range(source.randint(1, 24)):
            num_requests += 1
            ids = [source.randrange(300, 3000) for _ in range(source.randint(3, 60))]
            num_tokens += len(ids)
            if source.random() < 0.6:
                engine.add(EncodeRequest(id=num_requests, model="minilm", ids=ids, output="embedding"))
                continue
            params = SamplingParams(max_tokens=source.randint(1, 6), ignore_eos=True)
            engine.add(
                GenerateRequest(id=num_requests, model="translator", prompt_ids=ids[:20], params=params)
            )
        while engine.has_work:
            engine.step()
    seconds = time.process_time() - start
    return {"mib": psutil.Process(os.getpid()).memory_info().rss / 2**20, "speed": num_tokens / seconds}


if __name__ == "__main__":
    if sys.argv[1] == "bounded":
        memory.bound_caches()
    print(json.dumps(work(int(sys.argv[2]))))
