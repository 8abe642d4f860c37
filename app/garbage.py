"""When the interpreter looks through all objects for cycles that nobody holds: in quiet moments.

By default it does whenever their number has grown by a quarter, which is in the middle of a flood: with a thousand
requests in flight it took 0.2 to 0.6 seconds each time in the API process, in which nothing else is done and nobody is
answered, and 0.06 to 0.11 in the engine's, in which nobody gets a token.
"""

import asyncio
import gc
import time
from collections.abc import Callable
from typing import Self

LOOK_SECONDS = 10.0
FEW = 64
"""Requests in flight beside which it takes some ten milliseconds."""
MOST_SECONDS = 300.0
"""After so long it is done whatever there is to do, or garbage would pile up in a service that is never quiet."""
_NEVER = 10**9


class LateCollections:
    """While it is entered, all objects are looked through only when it is told to; young ones are, as ever."""

    def __enter__(self) -> Self:
        gc.collect()
        self._thresholds = gc.get_threshold()
        gc.set_threshold(*self._thresholds[:2], _NEVER)
        self._last = time.monotonic()
        return self

    def __exit__(self, *fault: object) -> None:
        gc.set_threshold(*self._thresholds)

    def now_if(self, is_quiet: bool) -> None:
        """Looks through all objects where it is quiet, or has not been for MOST_SECONDS."""
        if is_quiet or time.monotonic() - self._last > MOST_SECONDS:
            gc.collect()
            self._last = time.monotonic()


async def collect_when_quiet(num_in_flight: Callable[[], int]) -> None:
    """Until it is cancelled. What is there now stays for good and is not looked at."""
    with LateCollections() as collections:
        gc.freeze()
        try:
            while True:
                await asyncio.sleep(LOOK_SECONDS)
                collections.now_if(num_in_flight() <= FEW)
        finally:
            gc.unfreeze()
