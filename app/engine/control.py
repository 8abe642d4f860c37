"""What the client asks the engine process beside requests: its last steps, to load an adapter, to unload one.

Each question gets one reply, or the error that ends them all.
"""

import asyncio
from collections.abc import Callable, Iterable
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
from app.errors import EngineFailed, InvalidRequest, QuartetError


class Control:
    """All of it belongs to one event loop. `send` may lose a question where there is no engine process: then
    `send_again` comes when there is one."""

    def __init__(self, adapters: Iterable[AdapterSpec], send: Callable[[Question], object]) -> None:
        self.adapters = list(adapters)
        """Those that every process to come starts with."""
        self._send = send
        self._numbers = count(1)
        self._open: dict[int, tuple[Question, asyncio.Future[Reply]]] = {}

    async def trace(self, steps: int) -> list[TracedStep]:
        """The last steps, up to MAX_TRACED_STEPS, oldest first; a new engine process has none. Raises Unavailable."""
        reply = await self._ask(TraceSteps(next(self._numbers), steps))
        assert isinstance(reply, Traced)
        return reply.steps

    async def load_adapter(self, adapter: AdapterSpec) -> ModelInfo:
        """Serves one more, now and in every process to come; what runs goes on meanwhile.

        Raises InvalidRequest for one that cannot be served (`param`: name, base or path), EngineFailed, Unavailable.
        """
        reply = await self._ask(LoadAdapter(next(self._numbers), adapter))
        assert isinstance(reply, Loaded)
        self.adapters.append(adapter)
        return reply.info

    async def unload_adapter(self, name: str) -> None:
        """Takes no more requests for it, now and in every process to come; returns when those that it has are done and
        its weights are freed. Raises InvalidRequest where there is none, Unavailable; nothing has changed then."""
        await self._ask(UnloadAdapter(next(self._numbers), name))
        self.adapters = [adapter for adapter in self.adapters if adapter.name != name]

    def deliver(self, reply: Reply) -> None:
        """Somebody may wait for it."""
        if reply.id in self._open:
            _, waiting = self._open[reply.id]
            if not waiting.done():
                waiting.set_result(reply)

    def note_death(self, error: QuartetError) -> None:
        """The engine process is gone: its steps with it, and whoever loads an adapter must look whether that was why.

        Only an adapter that should go still has to: the next process begins with it, for what is in flight.
        """
        for question, waiting in self._open.values():
            if not isinstance(question, UnloadAdapter) and not waiting.done():
                waiting.set_exception(error)

    def send_again(self) -> None:
        """A new engine process has been told of what is in flight."""
        for question, waiting in list(self._open.values()):
            if not waiting.done():
                self._send(question)

    def fail_all(self, error: QuartetError) -> None:
        """No reply comes any more."""
        for _, waiting in self._open.values():
            if not waiting.done():
                waiting.set_exception(error)

    async def _ask(self, question: Question) -> Reply:
        waiting: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._open[question.id] = question, waiting
        try:
            self._send(question)
            return _check(await waiting)
        finally:
            del self._open[question.id]


def _check(reply: Reply) -> Reply:
    if not isinstance(reply, Refused):
        return reply
    if reply.kind == "invalid":
        raise InvalidRequest(reply.message, reply.param)
    raise EngineFailed(reply.message)
