"""`python -m benchmarks.soak [--minutes N]`: everything at once for a long time, then what has piled up.

Clients ask on all routes, stream, leave early, ask wrongly, ask for too much time; the engine process is killed at
random moments. At the end nothing is in flight, every request is counted once, and memory has not grown. The exit code
says whether that is so; memory is judged where the calm time at the end is long enough to tell.
"""

import argparse
import asyncio
import json
import random
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from statistics import linear_regression

from benchmarks.connection import Body, Connection
from benchmarks.measure import Claim, Report
from benchmarks.service import Service
from benchmarks.workloads import sentences

NUM_CLIENTS = 16
KILL_SECONDS = 60.0
KILLING_PART, CALM_PART = 0.4, 0.3
"""Of the time: first the engine process is killed again and again, at last it is seen whether memory grows."""
CACHE_BYTES = 2**26
"""So small that it is full by then."""
MOST_GROWTH = {"API": 50.0, "engine": 150.0}
"""MiB an hour; the engine's temporaries come and go by tens of them."""
JUDGED_SECONDS = 300.0
GROWS = "the memory of the {} process grows by"

Request = tuple[str, Body]


class Soak:
    """One run: what was sent, how it ended for the clients, and what the processes held meanwhile."""

    def __init__(self, service: Service, seconds: float) -> None:
        self.ends: Counter[str] = Counter()
        self.samples: dict[str, list[tuple[float, float]]] = {"API": [], "engine": []}
        self.num_files: list[int] = []
        self.kills = 0
        self._service, self._seconds = service, seconds
        self._end = time.monotonic() + seconds

    async def run(self) -> None:
        """All of it."""
        watching = asyncio.create_task(self._watch())
        killing = asyncio.create_task(self._kill())
        await asyncio.gather(*map(self._client, range(NUM_CLIENTS)))
        killing.cancel()
        watching.cancel()
        await asyncio.sleep(1.0)

    async def _client(self, number: int) -> None:
        chance = random.Random(number)
        while time.monotonic() < self._end:
            path, body = drawn(chance)
            patience = chance.uniform(0.0, 0.5) if chance.random() < 0.2 else 120.0
            self.ends[await self._ask(path, body, patience)] += 1

    async def _ask(self, path: str, body: Body, patience: float) -> str:
        try:
            async with Connection(self._service.port) as connection, asyncio.timeout(patience):
                await connection.post(path, body)
                return "200"
        except TimeoutError:
            return "left"
        except RuntimeError as error:
            return str(error).split(" answered ")[1][:3]
        except (OSError, asyncio.IncompleteReadError):
            return "cut"

    async def _kill(self) -> None:
        usual, chance = min(KILL_SECONDS, KILLING_PART * self._seconds / 4), random.Random(-1)
        while True:
            interval = usual * chance.uniform(0.5, 1.5)
            if time.monotonic() + interval > self._end - (1.0 - KILLING_PART) * self._seconds:
                return
            await asyncio.sleep(interval)
            self.kills += await asyncio.to_thread(self._service.kill_engine)

    async def _watch(self) -> None:
        begin = time.monotonic()
        while True:
            await asyncio.sleep(1.0)
            passed = time.monotonic() - begin
            for name, mib in self._service.memory_by_process().items():
                self.samples[name].append((passed, mib))
            self.num_files.append(self._service.num_files())

    @property
    def is_long(self) -> bool:
        """Whether growth is more than scatter."""
        return CALM_PART * self._seconds >= JUDGED_SECONDS

    def growth(self, name: str) -> float:
        """MiB an hour, in the time that is left whole."""
        calm = [sample for sample in self.samples[name] if sample[0] > (1.0 - CALM_PART) * self._seconds]
        times, sizes = zip(*calm, strict=True)
        return 3600.0 * linear_regression(times, sizes).slope


def drawn(chance: random.Random) -> Request:
    """Any request, most of them right."""
    text = chance.choice(sentences())
    prompt: Body = {"model": "writer", "prompt": [chance.randrange(400, 4000) for _ in range(8)]}
    prompt |= {"max_tokens": chance.randint(1, 64), "seed": chance.randrange(1000)}
    translated: Body = {"text": f"{text} {chance.choice(sentences())}", "target": chance.choice(["de", "fr"])}
    requests: list[Request] = [
        ("/v1/completions", prompt),
        ("/v1/completions", prompt | {"stream": True, "n": chance.randint(1, 3)}),
        ("/v1/completions", prompt | {"num_beams": 3, "temperature": 0}),
        ("/v1/generate", {"model": "writer", "prompt": text, "max_tokens": 32, "stream": True}),
        ("/v1/generate", {"model": "writer", "prompt": text, "regex": "[a-z ]{1,20}", "max_tokens": 20}),
        ("/v1/translate", translated),
        ("/v1/translate", translated | {"stream": True}),
        ("/translate", {"q": text, "source": "en", "target": "de"}),
        ("/v1/classify", {"model": "intent", "text": [text] * chance.randint(1, 30)}),
        ("/v1/classify", {"text": text, "labels": ["work", "travel"]}),
        ("/models/sentiment", {"inputs": text}),
        ("/v1/qa", {"question": "Who is it?", "context": text * chance.randint(1, 20)}),
        ("/v1/fill-mask", {"text": "the [MASK] is late."}),
        ("/v1/embeddings", {"model": "minilm", "input": [text] * chance.randint(1, 8)}),
        ("/v1/tokenize", {"model": "writer", "text": text}),
        ("/v1/generate", {"model": "writer", "prompt": text, "max_tokens": 500, "timeout": 0.05}),
        ("/v1/generate", {"model": "writer", "prompt": text, "temperature": -1}),
        ("/v1/generate", {"model": "nobody", "prompt": text}),
        ("/v1/generate", {"model": "writer", "prompt": text, "grammar": "no grammar"}),
        ("/nowhere", {}),
    ]
    return chance.choice(requests)


def run(minutes: float, serve: Sequence[str] = ()) -> Report:
    """As the module says."""
    with Service(("--kv-cache-memory", str(CACHE_BYTES), *serve)) as service:
        soak = Soak(service, 60.0 * minutes)
        asyncio.run(soak.run())
        service.wait_ready()
        counted = service.metric("quartet_requests_total")
        held = {
            name: service.metric(f"quartet_{name}")
            for name in ("requests_running", "requests_waiting", "kv_cache_usage_ratio")
        }
        files, restarts = service.num_files(), service.metric("quartet_engine_restarts_total")
    sent = sum(soak.ends.values())
    errors = sum(count for status, count in soak.ends.items() if status in ("500", "503", "cut"))
    claims = [
        Claim("requests sent and not counted", "", [sent - counted], target=0),
        Claim("answers 500 and 503, and connections cut", "", [errors], target=0),
        Claim("sequences that run or wait, and blocks held, at the end", "", [sum(held.values())], target=0),
        *(
            Claim(GROWS.format(name), "MiB/h", [soak.growth(name)], target=most if soak.is_long else None)
            for name, most in MOST_GROWTH.items()
        ),
        Claim("times that the engine was killed / started again", "", [restarts], [soak.kills], 1.0),
        Claim("open files at the end", "", [files], target=min(soak.num_files)),
    ]
    details = {
        "minutes": minutes,
        "requests": sent,
        "ends": dict(soak.ends),
        "kills": soak.kills,
        "open_files": [min(soak.num_files), max(soak.num_files), files],
        "memory_mib": {
            name: [round(mib, 1) for _, mib in samples[::15]] for name, samples in soak.samples.items()
        },
    }
    return Report("soak", claims, details)


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=20.0, help="how long (20)")
    parser.add_argument("--out", type=Path, default=Path("results"), help="folder for the JSON (results)")
    chosen = parser.parse_args(arguments)
    report = run(chosen.minutes)
    print(
        report.table(), json.dumps(report.details, indent=1), f"kept in {report.save(chosen.out)}", sep="\n\n"
    )
    return 0 if all(claim.is_met is not False for claim in report.claims) else 1


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main(sys.argv[1:]))
