"""Keeps one engine process alive: starts it, notices that it ended or hangs, starts it again, knows when to give up."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from app.engine.flight import Flight
from app.engine.framing import WorkerMessage
from app.engine.process import StartError, WorkerProcess
from app.engine.protocol import Ready, StepOutputs, WorkerConfig

BACKOFF_SECONDS = (0.0, 0.1, 0.3, 1.0, 3.0)
PATIENCE = 20.0
"""A step that takes so many times as long as was to be expected hangs."""

_log = logging.getLogger("quartet.client")


@dataclass(frozen=True)
class Patience:
    """Seconds: of silence until an engine is taken to hang, for a start with all its loading, and in all until work
    in flight is told that the engine is not back. `max_failures` starts in `window` that help nobody are the end."""

    silence: float = 30.0
    start: float = 1800.0
    recovery: float = 120.0
    max_failures: int = 5
    window: float = 60.0


class Owner(Protocol):
    """Who uses the engine process."""

    def receive(self, message: WorkerMessage) -> None:
        """It says something."""

    def ended(self, flight: Flight) -> bool:
        """It is gone, in the midst of this; whether that is now known to be one request's fault."""
        ...

    def is_back(self) -> None:
        """There is a new one, which knows nothing."""

    def is_late(self) -> None:
        """The new one takes longer than work in flight waits for."""


class Supervisor:
    """One engine process at a time, between `start` and `stop`; all of it belongs to one event loop.

    `config` makes the first message to each."""

    def __init__(
        self,
        command: Sequence[str],
        config: Callable[[], WorkerConfig],
        owner: Owner,
        on_restart: Callable[[], object],
        patience: Patience,
    ) -> None:
        self.worker: WorkerProcess | None = None
        self.ready: Ready | None = None
        self.lost = asyncio.Event()
        self.is_late = False
        self.start_seconds = 1.0
        self._command, self._config, self._owner = command, config, owner
        self._on_restart, self._patience = on_restart, patience
        self._keeper: asyncio.Task[None] | None = None
        self._has_answered = False
        self._failures: deque[float] = deque()

    @property
    def is_connected(self) -> bool:
        """There is a process, and it has not ended."""
        return self.worker is not None and not self.worker.closed.is_set()

    @property
    def is_heard(self) -> bool:
        """It is there, and said something lately; one that is idle sends heartbeats."""
        worker = self.worker
        return worker is not None and self.is_connected and worker.silence < self._patience.silence

    async def start(self) -> Ready:
        """Raises StartError."""
        self.worker = await self._launch()
        self._keeper = asyncio.create_task(self._keep(), name="engine keeper")
        assert self.ready is not None
        return self.ready

    async def stop(self, goodbye: bytes | bytearray) -> None:
        """Ends the process, which is told `goodbye`."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
        if self.worker is not None:
            self.worker.send(goodbye)
            await self.worker.end()
            self.worker = None

    async def _launch(self) -> WorkerProcess:
        started, self._has_answered = time.monotonic(), False
        try:
            async with asyncio.timeout(self._patience.start):
                worker, self.ready = await WorkerProcess.launch(self._command, self._config(), self._receive)
        except TimeoutError:
            seconds = f"{self._patience.start:g} s"
            raise StartError("internal", f"the engine process was not ready within {seconds}") from None
        self.start_seconds = time.monotonic() - started
        return worker

    def _receive(self, message: WorkerMessage) -> None:
        if isinstance(message, StepOutputs) and message.outputs:
            self._has_answered = True
        self._owner.receive(message)

    async def _keep(self) -> None:
        """Gives up at once on a mistake of our own: better a clean end than a silent one."""
        try:
            await self._start_again_and_again()
        except Exception:
            _log.exception("the engine process cannot be looked after")
        self.lost.set()
        self._owner.is_late()

    async def _start_again_and_again(self) -> None:
        """Returns when it is of no use any more."""
        while True:
            assert self.worker is not None
            await self._watch(self.worker)
            flight = self.worker.flight.read()
            code = await self.worker.end()
            self.worker = None
            _log.error(
                "the engine process ended with code %s; %d sequences at work", code, len(flight.lengths)
            )
            is_explained = self._owner.ended(flight)
            if is_explained:
                self._failures.clear()
            elif not self._has_answered:
                self._failures.append(time.monotonic())
            late = asyncio.get_running_loop().call_later(self._patience.recovery, self._be_late)
            try:
                self.worker = await self._start_again()
            finally:
                late.cancel()
            if self.worker is None:
                return
            self.is_late = False
            self._owner.is_back()

    def _be_late(self) -> None:
        self.is_late = True
        self._owner.is_late()

    def _has_failed_often(self) -> bool:
        while self._failures and self._failures[0] < time.monotonic() - self._patience.window:
            self._failures.popleft()
        return len(self._failures) > self._patience.max_failures

    async def _start_again(self) -> WorkerProcess | None:
        """None when that has failed too often."""
        while not self._has_failed_often():
            self._on_restart()
            await asyncio.sleep(BACKOFF_SECONDS[min(len(self._failures), len(BACKOFF_SECONDS) - 1)])
            try:
                return await self._launch()
            except StartError as error:
                _log.error("the engine process did not start: %s", error)
                self._failures.append(time.monotonic())
        return None

    async def _watch(self, worker: WorkerProcess) -> None:
        """Returns when the process has ended, by itself or because it hung."""
        interval = min(1.0, self._patience.silence / 4)
        was_silent = False
        while True:
            try:
                async with asyncio.timeout(interval):
                    await worker.closed.wait()
                    return
            except TimeoutError:
                is_silent = worker.silence > max(
                    self._patience.silence, PATIENCE * worker.flight.read().expected
                )
            if (
                is_silent and was_silent
            ):  # twice: where this process was stopped, what was sent is still to be read
                _log.error("the engine process hangs: it has said nothing for %.1f s", worker.silence)
                worker.kill()
                await worker.closed.wait()
                return
            was_silent = is_silent
