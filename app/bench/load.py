"""One level of load: requests sent as clients would, and what came of each.

A closed loop has a number of clients, each of which sends its next request when it has the answer to the last one: the
load adapts to the server. An open loop sends at moments of its own, whatever became of those before, as many
independent users do.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import Any

from app.bench.client import Request
from app.bench.outcome import Outcome

Ask = Callable[[Request, float | None], Awaitable[Outcome]]
"""A request, and the moment for which it was planned."""

SHORTEST_PAUSE, LONGEST_PAUSE = 0.1, 1.0
"""Seconds that a client of a closed loop waits when it was not answered, by what Retry-After says."""


class Load:
    """Collects outcomes while it runs, so that what is there can be told when it is cancelled."""

    def __init__(self, ask: Ask, on_end: Callable[[Outcome], None] = lambda outcome: None) -> None:
        self.outcomes: list[Outcome] = []
        self.num_sent = 0
        self.started = self.ended = 0.0
        self.processor_seconds = 0.0
        self._ask, self._on_end = ask, on_end

    @property
    def seconds(self) -> float:
        """From the start to the last answer."""
        return self.ended - self.started

    async def closed(self, requests: Iterable[Request], clients: int, seconds: float | None = None) -> None:
        """Until the requests are used up, or for `seconds`; what is in flight then comes to its end."""
        clock, waiting = asyncio.get_running_loop().time, iter(requests)

        async def client() -> None:
            while seconds is None or clock() < self.started + seconds:
                request = next(waiting, None)
                if request is None:
                    return
                outcome = await self._one(request, None)
                if outcome.failure is not None:
                    await asyncio.sleep(min(max(outcome.retry_after or 0.0, SHORTEST_PAUSE), LONGEST_PAUSE))

        await self._run(client() for _ in range(clients))

    async def open(self, requests: Iterable[Request]) -> None:
        """Each one `at` its seconds from the start; they come in that order."""
        clock = asyncio.get_running_loop().time

        async def arrivals() -> None:
            async with asyncio.TaskGroup() as group:
                for request in requests:
                    moment = self.started + request.at
                    await asyncio.sleep(max(0.0, moment - clock()))
                    group.create_task(self._one(request, moment))

        await self._run(iter([arrivals()]))

    async def _run(self, parts: Iterator[Coroutine[Any, Any, None]]) -> None:
        clock, used = asyncio.get_running_loop().time, time.process_time()
        self.started = self.ended = clock()
        try:
            async with asyncio.TaskGroup() as group:
                for part in parts:
                    group.create_task(part)
        except asyncio.CancelledError:
            self.ended = clock()
            raise
        finally:
            self.processor_seconds = time.process_time() - used

    async def _one(self, request: Request, planned: float | None) -> Outcome:
        self.num_sent += 1
        outcome = await self._ask(request, planned)
        self.outcomes.append(outcome)
        self.ended = asyncio.get_running_loop().time()
        self._on_end(outcome)
        return outcome
