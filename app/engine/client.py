"""The asyncio side of the border: submits to the engine process, streams from it, keeps it alive.

Every admitted request ends in exactly one result or one error, even if the process dies. Knows no text, no
HTTP and no tensors, and starts the worker by name without importing it. All of it belongs to one event loop.
"""

import asyncio
import logging
import math
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from functools import partial
from typing import TypeVar

from msgspec.structs import replace

from app.caller import Caller, caller
from app.engine.arrivals import Arrival, Arrivals, Good, arrived
from app.engine.control import Control
from app.engine.flight import Flight
from app.engine.framing import ProtocolError, WorkerMessage, encode_frame
from app.engine.journal import Journal, is_end, joined
from app.engine.outlet import Outlet
from app.engine.process import StartError
from app.engine.protocol import (
    Abort,
    AdapterSpec,
    Encoded,
    EncodeRequest,
    GenerateRequest,
    Hypotheses,
    Message,
    ModelInfo,
    ModelSpec,
    Ready,
    Report,
    Request,
    Shutdown,
    StepOutputs,
    Tokens,
    WorkerConfig,
)
from app.engine.questions import Reply, TracedStep
from app.engine.supervision import Patience, Supervisor
from app.errors import ConfigError, EngineFailed, InvalidRequest, Unavailable

WORKER_COMMAND = (sys.executable, "-m", "app.engine.worker")

__all__ = ["EngineClient", "Patience"]

_log = logging.getLogger("quartet.client")

Whole = TypeVar("Whole", Hypotheses, Encoded)


class EngineClient:
    """Submits requests to the engine process, and keeps that process alive between `start` and `stop`.

    When the process ends or hangs, another takes its place and goes on with what is in flight where that stopped: for
    who waits here it takes longer, nothing else. `max_queue_requests` and `max_queue_tokens` (prompts and completions)
    bound what is in flight, waiting or running, and `max_queue_wait` the seconds that a new request would wait, as
    estimated. An engine that cannot be kept alive is final (`wait_lost`).
    """

    def __init__(
        self,
        config: WorkerConfig,
        *,
        max_queue_requests: int,
        max_queue_tokens: int,
        max_queue_wait: float = math.inf,
        on_report: Callable[[Report], object],
        on_restart: Callable[[], object],
        command: Sequence[str] = WORKER_COMMAND,
        patience: Patience | None = None,
    ) -> None:
        self._journal = Journal(max_queue_requests, max_queue_tokens, max_queue_wait)
        self._outlet = Outlet[Arrival]()
        self._on_report = on_report
        self._patience = patience or Patience()
        self._control = Control(config.models, config.adapters, self._send)
        self._config = config
        self._supervisor = Supervisor(command, self._new_config, self, on_restart, self._patience)
        self._num_calls = 0
        self._no_calls = asyncio.Event()
        self._no_calls.set()
        self._is_stopping = False

    @property
    def info(self) -> Ready | None:
        """What the engine said when it was ready."""
        return self._supervisor.ready

    @property
    def is_ready(self) -> bool:
        """The engine process is up, was heard of lately, and new requests are taken."""
        return self._supervisor.is_heard and not self._is_stopping

    @property
    def num_requests(self) -> int:
        """Requests in flight."""
        return len(self._journal.entries)

    @property
    def num_tokens(self) -> int:
        """Tokens that the requests in flight may take, prompts and completions."""
        return self._journal.num_tokens

    def check_room(self, caller: Caller) -> None:
        """Raises Overloaded where the queue takes nothing more of this caller's sender."""
        self._journal.check_room(1, 1, caller)

    async def start(self) -> Ready:
        """Starts the engine process and waits until all models are loaded.

        Raises ConfigError for a checkpoint that cannot be served, EngineFailed for anything else.
        """
        try:
            return await self._supervisor.start()
        except StartError as error:
            kind = ConfigError if error.kind == "checkpoint" else EngineFailed
            raise kind(str(error)) from None

    async def stop(self, drain_timeout: float) -> None:
        """Takes no new requests, waits up to `drain_timeout` seconds for those in flight, ends the process."""
        self._is_stopping = True
        try:
            async with asyncio.timeout(drain_timeout):
                await self._no_calls.wait()
        except TimeoutError:
            self._journal.fail_all(self._unavailable())
        self._control.fail_all(self._unavailable())
        await self._supervisor.stop(encode_frame(Shutdown()))

    async def wait_lost(self) -> None:
        """Returns never: raises EngineFailed once the engine process cannot be kept alive."""
        await self._supervisor.lost.wait()
        times = self._patience.max_failures + 1
        raise EngineFailed(
            f"the engine process ended {times} times within {self._patience.window:g} s, to no one's use"
        )

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Tokens, None]:
        """New tokens as they come; the last message has a finish reason. Closing it aborts the sequence.

        Raises, here and in the methods below: Overloaded, Unavailable, InvalidRequest, EngineFailed, EngineFault.
        """
        async with aclosing(self._run([request])) as answers:
            async for _, answer in answers:
                assert isinstance(answer, Tokens)
                yield answer

    async def encode(self, request: EncodeRequest) -> Encoded:
        """The answer to one request."""
        return (await self.encode_many([request]))[0]

    async def generate_many(self, requests: Sequence[GenerateRequest]) -> list[Tokens]:
        """All tokens of each, in order. Admitted together or not at all; one that fails ends all."""
        whole: dict[int, Tokens] = {}
        async with aclosing(self._run(requests)) as answers:
            async for place, answer in answers:
                assert isinstance(answer, Tokens)
                whole[place] = joined(whole[place], answer) if place in whole else answer
        return [whole[place] for place in range(len(requests))]

    async def search_many(self, requests: Sequence[GenerateRequest]) -> list[Hypotheses]:
        """The best beams of each, for requests with more than one. Admitted and failing as above."""
        return await self._whole(requests, Hypotheses)

    async def encode_many(self, requests: Sequence[EncodeRequest]) -> list[Encoded]:
        """The answers in order. Admitted together or not at all; one that fails ends all."""
        return await self._whole(requests, Encoded)

    async def trace(self, steps: int) -> list[TracedStep]:
        """As `Control.trace`; raises Unavailable, here and below, where the engine is not back in time."""
        self._check_open()
        return await self._control.trace(steps)

    async def load_model(self, model: ModelSpec) -> ModelInfo:
        """As `Control.load_model`."""
        self._check_open()
        return await self._control.load_model(model)

    async def load_adapter(self, adapter: AdapterSpec) -> ModelInfo:
        """As `Control.load_adapter`."""
        self._check_open()
        return await self._control.load_adapter(adapter)

    async def unload(self, name: str) -> None:
        """As `Control.unload`."""
        self._check_open()
        await self._control.unload(name)

    async def _whole(self, requests: Sequence[Request], kind: type[Whole]) -> list[Whole]:
        """One answer to each request, in order."""
        found: dict[int, Whole] = {}
        async with aclosing(self._run(requests)) as answers:
            async for place, answer in answers:
                assert isinstance(answer, kind)
                found[place] = answer
        return [found[place] for place in range(len(requests))]

    async def _run(self, requests: Sequence[Request]) -> AsyncGenerator[tuple[int, Good], None]:
        """Answers as they come, each with its request's place; what is open when it is left is aborted."""
        self._check_open()
        answers: Arrivals = asyncio.Queue()
        admitted = self._journal.admit(requests, partial(self._outlet.put, answers), caller.get())
        self._count_call(1)
        try:
            self._send(*admitted)
            num_open = len(admitted)
            while num_open:
                for place, answer in await arrived(answers):
                    num_open -= is_end(answer)
                    yield place, answer
        finally:
            left = [request.id for request in admitted if self._journal.release(request.id)]
            if left:
                self._send(Abort(left))
            self._count_call(-1)

    def _check_open(self) -> None:
        if self._is_stopping or self._supervisor.is_late or self._supervisor.lost.is_set():
            raise self._unavailable()

    def _new_config(self) -> WorkerConfig:
        """What the next process starts with. Whoever is at work on what it cannot have is told so."""
        for name in self._control.drop_replaced():
            self._journal.forsake(name)
        return replace(self._config, models=self._control.models, adapters=self._control.adapters)

    def _count_call(self, change: int) -> None:
        self._num_calls += change
        if self._num_calls:
            self._no_calls.clear()
        else:
            self._no_calls.set()

    def _send(self, *messages: Message) -> None:
        """While there is no engine process nothing is sent: the next one is told all that is in flight."""
        try:
            frames = b"".join(map(encode_frame, messages))
        except ProtocolError as error:
            raise InvalidRequest(f"the request is too large: {error}") from None
        if self._supervisor.worker is not None:
            self._supervisor.worker.send(frames)

    def _unavailable(self) -> Unavailable:
        if self._is_stopping:
            return Unavailable("the service is shutting down", code="draining", retry_after=5.0)
        seconds = float(math.ceil(self._supervisor.start_seconds))
        return Unavailable("the engine is being started again", code="restarting", retry_after=seconds)

    def receive(self, message: WorkerMessage) -> None:
        """The supervisor's call: the engine says something."""
        if isinstance(message, StepOutputs):
            self._journal.receive(message)
            if message.report is not None:
                try:
                    self._on_report(message.report)
                except Exception:
                    _log.exception("a report could not be recorded")
        elif isinstance(message, Reply):
            self._control.deliver(message)

    def ended(self, flight: Flight) -> bool:
        """The supervisor's call: the engine is gone; whether one request is to blame."""
        self._control.note_death(self._unavailable())
        return self._journal.note_death(flight.lengths)

    def is_back(self) -> None:
        """The supervisor's call: a new engine goes on with what is in flight."""
        self._journal.note_restart()
        for entry in list(self._journal.entries.values()):
            self._send(entry.again())
        self._control.send_again()

    def is_late(self) -> None:
        """The supervisor's call: what is in flight has waited long enough."""
        self._journal.fail_all(self._unavailable())
        self._control.fail_all(self._unavailable())
