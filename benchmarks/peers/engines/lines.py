"""Between a benchmark and an engine in a process of its own: a JSON command a line in, `= SECONDS` a line out.
Other lines are the engine's own talk.

    {"generate": [[ids], …], "new": n, "beams": k, "batch": b}   exactly n tokens for each, b sequences at a time
    {"encode": [[ids], …]}                                       a vector for each; the engine chooses its batches

Only the standard library, since it runs in each engine's own environment.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

THREADS = 2
BATCH_TOKENS = 2048
Ids = list[int]
Item = TypeVar("Item")


def answer(commands: dict[str, Callable[[dict[str, Any]], None]]) -> None:
    """Until the input ends; a command is known by the first of `commands` that it names."""
    print("= ready", flush=True)
    for line in sys.stdin:
        command = json.loads(line)
        run = next(run for name, run in commands.items() if name in command)
        start = time.perf_counter()
        run(command)
        print("=", time.perf_counter() - start, flush=True)


def in_batches(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def by_length(texts: Sequence[Ids]) -> list[list[Ids]]:
    """Sorted, in batches of at most `BATCH_TOKENS` with their padding: the kindest order for padded batches."""
    batches: list[list[Ids]] = [[]]
    for text in sorted(texts, key=len):
        if batches[-1] and (len(batches[-1]) + 1) * len(text) > BATCH_TOKENS:
            batches.append([])
        batches[-1].append(text)
    return batches


def padded(texts: Sequence[Ids], pad: int = 0) -> tuple[list[Ids], list[Ids]]:
    """Ids and mask, filled on the right."""
    longest = max(map(len, texts))
    ids = [text + [pad] * (longest - len(text)) for text in texts]
    return ids, [[1] * len(text) + [0] * (longest - len(text)) for text in texts]
