"""When the interpreter looks through all objects for cycles that nobody holds: in quiet moments.

By default it does whenever their number has grown by a quarter, which is in the middle of a flood: with a thousand
requests in flight it took 0.2 to 0.6 seconds each time, in which nothing else is done and nobody is answered.
"""

import asyncio
import gc
import time
from collections.abc import Callable

LOOK_SECONDS = 10.0
FEW = 64
"""Requests in flight beside which it takes some ten milliseconds."""
MOST_SECONDS = 300.0
"""After so long it is done whatever there is to do, or garbage would pile up in a service that is never quiet."""
_NEVER = 10**9


async def collect_when_quiet(num_in_flight: Callable[[], int]) -> None:
    """Until it is cancelled. What is there now stays for good and is not looked at; young objects are, as ever."""
    gc.collect()
    gc.freeze()
    young, middle, old = gc.get_threshold()
    gc.set_threshold(young, middle, _NEVER)
    last = time.monotonic()
    try:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            if num_in_flight() <= FEW or time.monotonic() - last > MOST_SECONDS:
                gc.collect()
                last = time.monotonic()
    finally:
        gc.set_threshold(young, middle, old)
        gc.unfreeze()
