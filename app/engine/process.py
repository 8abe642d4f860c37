"""The client's handle on one engine process: starts it, talks to it over a socket pair, ends it.

Restarting is the client's business; here a process lives once.
"""

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Callable, Sequence
from typing import Literal, cast

from app.engine.flight import FlightRecorder, closing_fd, make_flight
from app.engine.framing import ProtocolError, WorkerMessage, encode_frame, worker_messages
from app.engine.protocol import (
    Fatal,
    Ready,
    WorkerConfig,
)

EXIT_SECONDS = 5.0

_log = logging.getLogger("quartet.client")


class StartError(Exception):
    """The engine process did not get ready; `kind` as in `Fatal`."""

    def __init__(self, kind: Literal["checkpoint", "internal"], message: str) -> None:
        super().__init__(message)
        self.kind = kind


class WorkerProcess(asyncio.Protocol):
    """One engine process and our end of the socket to it; made by `launch`.

    Writes are buffered without bound: what may be in flight is bounded by the client's journal.
    """

    def __init__(self, receive: Callable[[WorkerMessage], None]) -> None:
        self.closed = asyncio.Event()
        self.flight: FlightRecorder
        self._last_heard = time.monotonic()
        self._receive = receive
        self._ready: asyncio.Future[Ready] = asyncio.get_running_loop().create_future()
        self._frames = worker_messages()
        self._transport: asyncio.Transport
        self._process: asyncio.subprocess.Process

    @classmethod
    async def launch(
        cls, command: Sequence[str], config: WorkerConfig, receive: Callable[[WorkerMessage], None]
    ) -> tuple["WorkerProcess", Ready]:
        """Returns once the engine is ready. Raises StartError; leaves no process behind when it fails."""
        ours, theirs = socket.socketpair()
        flight = make_flight()
        with theirs, closing_fd(flight):
            _, worker = await asyncio.get_running_loop().create_unix_connection(
                lambda: cls(receive), sock=ours
            )
            worker.flight = FlightRecorder(flight)
            fd = theirs.fileno()
            try:
                worker._process = await asyncio.create_subprocess_exec(
                    *(*command, "--fd", str(fd), "--flight", str(flight)),
                    pass_fds=(fd, flight),
                    stdin=asyncio.subprocess.DEVNULL,
                )
            except BaseException as error:
                worker._transport.abort()
                worker._ready.cancel()
                if isinstance(error, OSError):
                    raise StartError("internal", f"{command[0]}: {error.strerror or error}") from error
                raise
        try:
            worker.send(encode_frame(config))
            return worker, await worker._ready
        except BaseException:
            if worker._ready.done() and not worker._ready.cancelled():
                worker._ready.exception()  # read, also where this was cancelled at the same moment
            await worker.end(0.0)
            raise

    def send(self, frames: bytes | bytearray) -> None:
        """Lost where the process is ending."""
        if not self._transport.is_closing():
            self._transport.write(frames)

    @property
    def silence(self) -> float:
        """Seconds since it was heard of."""
        return time.monotonic() - self._last_heard

    def kill(self) -> None:
        """Ends it at once; one that is stopped too."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def end(self, patience: float = EXIT_SECONDS) -> int:
        """Closes the socket, on which the process ends by itself or after `patience` seconds by force.

        The exit code, negative for a signal.
        """
        self._transport.close()
        try:
            async with asyncio.timeout(patience):
                return await self._process.wait()
        except TimeoutError:
            self.kill()
            return await self._process.wait()
        finally:
            self._transport.abort()
            self.flight.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by the event loop."""
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is one without saying so

    def data_received(self, data: bytes) -> None:
        """Called by the event loop."""
        self._last_heard = time.monotonic()
        try:
            for message in self._frames.feed(data):
                self._handle(message)
        except ProtocolError as error:
            _log.error("the engine process is cut off: %s", error)
            self._transport.abort()

    def connection_lost(self, error: Exception | None) -> None:
        """Called by the event loop."""
        self.closed.set()
        if not self._ready.done():
            self._ready.set_exception(StartError("internal", "the engine process ended while it started"))

    def _handle(self, message: WorkerMessage) -> None:
        if self._ready.done():
            self._receive(message)
        elif isinstance(message, Ready):
            self._ready.set_result(message)
        elif isinstance(message, Fatal):
            self._ready.set_exception(StartError(message.kind, message.message))
        else:
            raise ProtocolError("the engine process spoke before it was ready")
