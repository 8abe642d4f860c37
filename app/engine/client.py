"""The asyncio side of the border: submits to the engine process, streams from it, keeps it alive.

Every admitted request ends in exactly one result or one error, even if the process dies. Knows no text, no
HTTP and no tensors, and starts the worker by name without importing it. All of it belongs to one event loop.
"""

import asyncio
import logging
import math
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import TypeVar

from msgspec.structs import replace

from app.engine.arrivals import Arrivals, Good, arrived
from app.engine.control import Control
from app.engine.framing import ProtocolError, WorkerMessage, encode_frame
from app.engine.journal import Journal, is_end, joined
from app.engine.process import StartError, WorkerProcess
from app.engine.protocol import (
    Abort,
    AdapterSpec,
    Encoded,
    EncodeRequest,
    GenerateRequest,
    Hypotheses,
    Message,
    ModelInfo,
    Ready,
    Report,
    Request,
    Shutdown,
    StepOutputs,
    Tokens,
    WorkerConfig,
)
from app.engine.questions import (
    Question,
    Reply,
    TracedStep,
)
from app.errors import ConfigError, EngineFailed, InvalidRequest, Unavailable

WORKER_COMMAND = (sys.executable, "-m", "app.engine.worker")
SILENCE_SECONDS = 30.0
"""An engine that is silent for longer than this is not called ready; idle ones send heartbeats."""
_BACKOFF_SECONDS = (0.0, 0.1, 0.3, 1.0, 3.0)

_log = logging.getLogger("quartet.client")


Whole = TypeVar("Whole", Hypotheses, Encoded)


class EngineClient:
    """Submits requests to the engine process, and keeps that process alive between `start` and `stop`.

    `max_queue_requests` and `max_queue_tokens` (prompts and completions) bound what is in flight, waiting or
    running. When restarts number `max_restarts` within `restart_window` seconds, the next end of the process
    is final (`wait_lost`).
    """

    def __init__(
        self,
        config: WorkerConfig,
        *,
        max_queue_requests: int,
        max_queue_tokens: int,
        on_report: Callable[[Report], object],
        on_restart: Callable[[], object],
        command: Sequence[str] = WORKER_COMMAND,
        max_restarts: int = 5,
        restart_window: float = 60.0,
    ) -> None:
        self.info: Ready | None = None
        self._config, self._command = config, command
        self._journal = Journal(max_queue_requests, max_queue_tokens)
        self._control = Control(config.adapters, self._ask)
        self._on_report, self._on_restart = on_report, on_restart
        self._max_restarts, self._restart_window = max_restarts, restart_window
        self._worker: WorkerProcess | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._lost = asyncio.Event()
        self._num_calls = 0
        self._no_calls = asyncio.Event()
        self._no_calls.set()
        self._is_stopping = False
        self._start_seconds = 1.0

    @property
    def is_ready(self) -> bool:
        """The engine process is up, was heard of lately, and new requests are taken."""
        worker = self._worker
        if worker is None or worker.closed.is_set() or self._is_stopping:
            return False
        return time.monotonic() - worker.last_heard < SILENCE_SECONDS

    @property
    def num_requests(self) -> int:
        """Requests in flight."""
        return len(self._journal.entries)

    @property
    def num_tokens(self) -> int:
        """Tokens that the requests in flight may take, prompts and completions."""
        return self._journal.num_tokens

    async def start(self) -> Ready:
        """Starts the engine process and waits until all models are loaded.

        Raises ConfigError for a checkpoint that cannot be served, EngineFailed for anything else.
        """
        try:
            self._worker = await self._launch()
        except StartError as error:
            kind = ConfigError if error.kind == "checkpoint" else EngineFailed
            raise kind(str(error)) from None
        self._keeper = asyncio.create_task(self._keep(), name="engine keeper")
        assert self.info is not None
        return self.info

    async def stop(self, drain_timeout: float) -> None:
        """Takes no new requests, waits up to `drain_timeout` seconds for those in flight, ends the process."""
        self._is_stopping = True
        try:
            async with asyncio.timeout(drain_timeout):
                await self._no_calls.wait()
        except TimeoutError:
            self._journal.fail_all(self._unavailable())
        self._control.fail_all(self._unavailable())
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        if self._worker is not None:
            self._worker.send(encode_frame(Shutdown()))
            await self._worker.end()
            self._worker = None

    async def wait_lost(self) -> None:
        """Returns never: raises EngineFailed once the engine process cannot be kept alive."""
        await self._lost.wait()
        raise EngineFailed(
            f"the engine process ended {self._max_restarts + 1} times within {self._restart_window:g} s"
        )

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Tokens, None]:
        """New tokens as they come; the last message has a finish reason. Closing it aborts the sequence.

        Raises, here and in the methods below: Overloaded, Unavailable, InvalidRequest, EngineFailed.
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
        """As `Control.trace`."""
        return await self._control.trace(steps)

    async def load_adapter(self, adapter: AdapterSpec) -> ModelInfo:
        """As `Control.load_adapter`."""
        return await self._control.load_adapter(adapter)

    async def unload_adapter(self, name: str) -> None:
        """As `Control.unload_adapter`."""
        await self._control.unload_adapter(name)

    def _ask(self, question: Question) -> None:
        self._check_connected()
        self._send(question)

    def _check_connected(self) -> None:
        if self._is_stopping or not self._is_connected:
            raise self._unavailable()

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
        self._check_connected()
        answers: Arrivals = asyncio.Queue()
        admitted = self._journal.admit(requests, answers.put_nowait)
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
            if left and self._is_connected:
                self._send(Abort(left))
            self._count_call(-1)

    def _count_call(self, change: int) -> None:
        self._num_calls += change
        if self._num_calls:
            self._no_calls.clear()
        else:
            self._no_calls.set()

    @property
    def _is_connected(self) -> bool:
        return self._worker is not None and not self._worker.closed.is_set()

    def _send(self, *messages: Message) -> None:
        assert self._worker is not None
        try:
            frames = b"".join(map(encode_frame, messages))
        except ProtocolError as error:
            raise InvalidRequest(f"the request is too large: {error}") from None
        self._worker.send(frames)

    def _unavailable(self) -> Unavailable:
        if self._is_stopping:
            return Unavailable("the service is shutting down", code="draining", retry_after=5.0)
        seconds = float(math.ceil(self._start_seconds))
        return Unavailable("the engine is being started again", code="restarting", retry_after=seconds)

    def _receive(self, message: WorkerMessage) -> None:
        if isinstance(message, StepOutputs):
            for output in message.outputs:
                self._journal.deliver(output)
            if message.report is not None:
                try:
                    self._on_report(message.report)
                except Exception:
                    _log.exception("a report could not be recorded")
        elif isinstance(message, Reply):
            self._control.deliver(message)

    async def _keep(self) -> None:
        """Gives the engine up at once on a mistake of our own: better a clean end than a silent one."""
        try:
            await self._restart_often()
        except Exception:
            _log.exception("the engine process cannot be looked after")
        self._lost.set()

    async def _restart_often(self) -> None:
        """Starts the engine process again whenever it ends; returns when that was too often."""
        restarts: deque[float] = deque()
        while True:
            if self._worker is not None:
                await self._worker.closed.wait()
                code = await self._worker.end()
                self._worker = None
                _log.error("the engine process ended with code %s, %d in flight", code, self.num_requests)
                self._journal.fail_all(self._unavailable())
                self._control.fail_all(self._unavailable())
            now = time.monotonic()
            while restarts and restarts[0] < now - self._restart_window:
                restarts.popleft()
            if len(restarts) >= self._max_restarts:
                return
            restarts.append(now)
            self._on_restart()
            await asyncio.sleep(_BACKOFF_SECONDS[min(len(restarts), len(_BACKOFF_SECONDS)) - 1])
            try:
                self._worker = await self._launch()
            except StartError as error:
                _log.error("the engine process did not start: %s", error)

    async def _launch(self) -> WorkerProcess:
        started = time.monotonic()
        config = replace(self._config, adapters=self._control.adapters)
        worker, self.info = await WorkerProcess.launch(self._command, config, self._receive)
        self._start_seconds = time.monotonic() - started
        return worker
