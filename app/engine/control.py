"""What the client asks the engine process beside requests: its last steps, to load an adapter, to unload one.

Each question gets one reply, or the error that ends them all.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count

from app.engine.protocol import AdapterSpec, ModelInfo
from app.engine.questions import (
    LoadAdapter,
    Loaded,
    Question,
    Refused,
    Reply,
    Traced,
    TracedStep,
    TraceSteps,
    UnloadAdapter,
)
from app.errors import EngineFailed, InvalidRequest, QuartetError, Unavailable


class Control:
    """All of it belongs to one event loop. `send` raises Unavailable where there is no engine process to send to."""

    def __init__(self, adapters: Iterable[AdapterSpec], send: Callable[[Question], object]) -> None:
        self.adapters = list(adapters)
        """Those that every process to come starts with."""
        self._send = send
        self._numbers = count(1)
        self._open: dict[int, asyncio.Future[Reply]] = {}

    async def trace(self, steps: int) -> list[TracedStep]:
        """The last steps, up to MAX_TRACED_STEPS, oldest first; a new engine process has none. Raises Unavailable."""
        reply = await self._ask(partial(TraceSteps, steps=steps))
        assert isinstance(reply, Traced)
        return reply.steps

    async def load_adapter(self, adapter: AdapterSpec) -> ModelInfo:
        """Serves one more, now and in every process to come; what runs goes on meanwhile.

        Raises InvalidRequest for one that cannot be served (`param`: name, base or path), EngineFailed, Unavailable.
        """
        reply = await self._ask(partial(LoadAdapter, adapter=adapter))
        assert isinstance(reply, Loaded)
        self.adapters.append(adapter)
        return reply.info

    async def unload_adapter(self, name: str) -> None:
        """Takes no more requests for it, now and in every process to come; returns when those that it has are done and
        its weights are freed. Raises InvalidRequest where there is none, Unavailable; nothing has changed then."""
        with self._question() as (number, waiting):
            self._send(UnloadAdapter(number, name))
            self.adapters = [adapter for adapter in self.adapters if adapter.name != name]
            with suppress(Unavailable):  # the next process starts without it
                _check(await waiting)

    def deliver(self, reply: Reply) -> None:
        """Somebody may wait for it."""
        waiting = self._open.get(reply.id)
        if waiting is not None and not waiting.done():
            waiting.set_result(reply)

    def fail_all(self, error: QuartetError) -> None:
        """No reply comes any more."""
        for waiting in self._open.values():
            if not waiting.done():
                waiting.set_exception(error)

    async def _ask(self, make: Callable[[int], Question]) -> Reply:
        with self._question() as (number, waiting):
            self._send(make(number))
            return _check(await waiting)

    @contextmanager
    def _question(self) -> Iterator[tuple[int, asyncio.Future[Reply]]]:
        """A number, and the reply to it; one that comes when nobody waits any more is dropped."""
        number = next(self._numbers)
        self._open[number] = asyncio.get_running_loop().create_future()
        try:
            yield number, self._open[number]
        finally:
            del self._open[number]


def _check(reply: Reply) -> Reply:
    if not isinstance(reply, Refused):
        return reply
    if reply.kind == "invalid":
        raise InvalidRequest(reply.message, reply.param)
    raise EngineFailed(reply.message)
