"""How long a short request takes while thousands of texts of another one wait."""

import asyncio
import time
from statistics import median, quantiles

from benchmarks.connection import Body, Connection
from benchmarks.measure import Claim, Options, Report
from benchmarks.service import AS_IF_NEW, Service
from benchmarks.workloads import mixed_lengths, mixed_texts, sentences

MOST_SECONDS = 1.0
NUM_QUIET = 20


def run(options: Options) -> Report:
    """Short requests one after the other: alone, and behind a large one to the same model, until that is done."""
    count = 2048 if options.is_full else 512
    words = sorted({word for sentence in sentences() for word in sentence.lower().strip(".").split()})
    texts: Body = {"model": "sentiment", "text": mixed_texts(words, mixed_lengths(count))}
    classified: Body = {"model": "sentiment", "text": "a fine day"}
    prompts: Body = {"model": "writer", "prompt": [[400 + n] * 8 for n in range(count)], "max_tokens": 32}
    said: Body = {"model": "writer", "prompt": [399] * 8, "max_tokens": 1}
    claims, details = [], {}
    with Service((*options.serve, *AS_IF_NEW)) as service:
        for what, path, large, short in (
            ("text to classify", "/v1/classify", texts, classified),
            ("token", "/v1/completions", prompts | {"temperature": 0}, said | {"temperature": 0}),
        ):
            quiet = [asyncio.run(_timed(service.port, path, short)) for _ in range(NUM_QUIET)]
            busy, seconds = asyncio.run(_beside(service.port, path, large, short))
            claims.append(
                Claim(
                    f"one {what} beside {count}, 95 of 100",
                    "s",
                    [quantiles(busy, n=20)[-1]],
                    target=MOST_SECONDS,
                )
            )
            claims.append(Claim(f"one {what}, alone", "s", quiet))
            details[what] = {
                "large_request_s": round(seconds, 2),
                "short_requests": len(busy),
                "median_s": round(median(busy), 4),
                "longest_s": round(max(busy), 4),
            }
    return Report("fairness", claims, details)


async def _timed(port: int, path: str, body: Body) -> float:
    async with Connection(port) as connection:
        start = time.perf_counter()
        await connection.post(path, body)
        return time.perf_counter() - start


async def _beside(port: int, path: str, large: Body, short: Body) -> tuple[list[float], float]:
    """Seconds that each short request took, and the large one."""
    whole = asyncio.create_task(_timed(port, path, large))
    await asyncio.sleep(0.2)
    taken = []
    while not whole.done():
        taken.append(await _timed(port, path, short))
        await asyncio.sleep(0.05)
    return taken, await whole
