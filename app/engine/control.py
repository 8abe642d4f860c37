"""What the client asks the engine process beside requests: its last steps, to load weights, to unload some.

Each question gets one reply, or the error that ends them all.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from app.engine.protocol import AdapterSpec, ModelInfo, ModelSpec
from app.engine.questions import (
    LoadAdapter,
    Loaded,
    LoadModel,
    Question,
    Refused,
    Reply,
    Traced,
    TracedStep,
    TraceSteps,
    Unload,
    Unloaded,
)
from app.errors import EngineFailed, InvalidRequest, QuartetError

Stamp = frozenset[tuple[str, int, int, int]]
_READ = (".safetensors", ".json")


@dataclass(frozen=True)
class _Known:
    """What the engine has, and the files of its folder when they were read."""

    spec: ModelSpec | AdapterSpec
    stamp: Stamp


class Control:
    """All of it belongs to one event loop. `send` may lose a question where there is no engine process: then
    `send_again` comes when there is one."""

    def __init__(
        self,
        models: Iterable[ModelSpec],
        adapters: Iterable[AdapterSpec],
        send: Callable[[Question], object],
    ) -> None:
        self._known: dict[str, _Known] = {}
        self._latest: dict[str, str] = {}  # by folder, what was loaded from it last
        specs: list[ModelSpec | AdapterSpec] = [*models, *adapters]
        for spec in specs:
            self._note(_Known(spec, _stamp(spec.path)))
        self._send = send
        self._numbers = count(1)
        self._loading: dict[int, _Known] = {}
        self._open: dict[int, tuple[Question, asyncio.Future[Reply]]] = {}

    @property
    def models(self) -> list[ModelSpec]:
        """Those that a process to come starts with."""
        return [one.spec for one in self._known.values() if isinstance(one.spec, ModelSpec)]

    @property
    def adapters(self) -> list[AdapterSpec]:
        """As `models`."""
        return [one.spec for one in self._known.values() if isinstance(one.spec, AdapterSpec)]

    async def trace(self, steps: int) -> list[TracedStep]:
        """The last steps, up to MAX_TRACED_STEPS, oldest first; a new engine process has none. Raises Unavailable."""
        reply = await self._ask(TraceSteps(next(self._numbers), steps))
        assert isinstance(reply, Traced)
        return reply.steps

    async def load_model(self, model: ModelSpec) -> ModelInfo:
        """Serves one more, now and in every process to come; what runs goes on meanwhile.

        Raises InvalidRequest for one that cannot be served (`param`: name, base or path), EngineFailed, Unavailable.
        """
        return await self._load(LoadModel(next(self._numbers), model), model)

    async def load_adapter(self, adapter: AdapterSpec) -> ModelInfo:
        """As `load_model`."""
        return await self._load(LoadAdapter(next(self._numbers), adapter), adapter)

    async def unload(self, name: str) -> None:
        """Takes no more requests for a name, now and in every process to come; returns when those that it has are done
        and its weights are freed. Raises InvalidRequest where there is none, Unavailable; nothing has changed then."""
        await self._ask(Unload(next(self._numbers), name))

    def drop_replaced(self) -> list[str]:
        """Leaves out what a process to come cannot have as it was, since something was loaded from its folder later and
        the files there are others by now; returns the names of these, adapters of such a model among them."""
        gone = {
            name
            for name, one in self._known.items()
            if self._latest[one.spec.path] != name and one.stamp != _stamp(one.spec.path)
        }
        gone |= {adapter.name for adapter in self.adapters if adapter.base in gone}
        for name in gone:
            del self._known[name]
        return sorted(gone)

    def deliver(self, reply: Reply) -> None:
        """Somebody may wait for it."""
        if reply.id not in self._open:
            return
        question, waiting = self._open[reply.id]
        if isinstance(question, Unload) and isinstance(reply, Unloaded):
            self._known.pop(question.name, None)
        elif isinstance(reply, Loaded):
            self._note(self._loading[question.id])
        if not waiting.done():
            waiting.set_result(reply)

    def note_death(self, error: QuartetError) -> None:
        """The engine process is gone: its steps with it, and whoever loads something must look whether that was why.

        Only what should go still has to: the next process begins with it, for what is in flight.
        """
        for question, waiting in self._open.values():
            if not isinstance(question, Unload) and not waiting.done():
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

    async def _load(self, question: LoadModel | LoadAdapter, spec: ModelSpec | AdapterSpec) -> ModelInfo:
        self._loading[question.id] = _Known(spec, _stamp(spec.path))
        try:
            reply = await self._ask(question)
        finally:
            del self._loading[question.id]
        assert isinstance(reply, Loaded)
        return reply.info

    def _note(self, one: "_Known") -> None:
        self._known[one.spec.name] = one
        self._latest[one.spec.path] = one.spec.name

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


def _stamp(path: str) -> Stamp:
    """Tells whether the files that a process reads are still the same; empty where there is no such folder."""
    try:
        return frozenset(
            (file.name, (status := file.stat()).st_ino, status.st_size, status.st_mtime_ns)
            for file in Path(path).iterdir()
            if file.suffix in _READ
        )
    except OSError:
        return frozenset()
