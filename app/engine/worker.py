"""The engine process, `python -m app.engine.worker --fd N --flight M`: receive, step, send, until its socket closes.

One thread runs the engine. While there is work it never waits for messages, and while there is none it waits for
nothing but messages and the engine's own threads, which compile constraints and read weights.
Sends block: the client reads whatever it is busy with, so a full socket means that the whole service is behind,
and a client that is gone closes the socket, which ends the process. Exit codes: 0 the socket closed or shutdown
was asked for, 2 a checkpoint cannot be served, 1 anything else.
"""

import argparse
import logging
import os
import select
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol

import torch
from msgspec.structs import replace

from app import logs
from app.engine.admission import RequestError
from app.engine.build import build_engine
from app.engine.flight import FlightRecorder
from app.engine.framing import ClientMessage, FrameBuffer, ProtocolError, client_messages, encode_frame
from app.engine.memory import bound_caches, release_free
from app.engine.protocol import (
    Abort,
    EncodeRequest,
    Failed,
    Fatal,
    GenerateRequest,
    Heartbeat,
    Message,
    ModelInfo,
    Ready,
    Shutdown,
    StepOutputs,
    WorkerConfig,
)
from app.engine.questions import LoadAdapter, LoadModel, Question, Reply, TraceSteps, Unload
from app.garbage import LateCollections
from model.config import CheckpointError

HEARTBEAT_SECONDS = 1.0
IDLE_BEATS = 5
"""Heartbeats after which an idle engine looks for garbage and gives memory back: temporaries of many sizes leave a
gigabyte behind."""
_SEND_BUFFER_BYTES = 2**20
_RECEIVE_BYTES = 2**18

_log = logging.getLogger("quartet.worker")


class Engine(Protocol):
    """What the loop needs of an engine."""

    @property
    def has_work(self) -> bool: ...

    def add(self, request: GenerateRequest | EncodeRequest) -> None: ...

    def abort(self, ids: Iterable[int]) -> None: ...

    def step(self) -> StepOutputs: ...

    def ask(self, question: Question) -> None: ...

    def replies(self) -> list[Reply]: ...


class BuiltEngine(Engine, Protocol):
    """What is told about an engine once it is built."""

    @property
    def infos(self) -> list[ModelInfo]: ...

    def when_ready(self, wake: Callable[[], object]) -> None: ...


class Disconnected(Exception):
    """The other end of the socket is closed."""


class Channel:
    """The worker's end of the socket: whole messages in, whole messages out; other threads may `wake` who waits."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(True)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER_BYTES)
        self._sock = sock
        self._poll = select.poll()
        self._poll.register(sock, select.POLLIN)
        self._wakes, self._wake = os.pipe()
        os.set_blocking(self._wake, False)
        self._poll.register(self._wakes, select.POLLIN)
        self._frames: FrameBuffer[ClientMessage] = client_messages()

    def receive(self, timeout: float) -> list[ClientMessage]:
        """The messages that came, after at most `timeout` seconds. Raises Disconnected, ProtocolError."""
        ready = {fd for fd, _ in self._poll.poll(1000.0 * timeout)}
        if self._wakes in ready:
            os.read(self._wakes, _RECEIVE_BYTES)
        if self._sock.fileno() not in ready:
            return []
        try:
            data = self._sock.recv(_RECEIVE_BYTES)
        except ConnectionError:
            raise Disconnected from None
        if not data:
            raise Disconnected
        return list(self._frames.feed(data))

    def wake(self) -> None:
        """Ends the waiting of `receive`, the present or the next one; from any thread."""
        with suppress(BlockingIOError):  # it is full of wakes
            os.write(self._wake, b"\0")

    def send(self, message: Message) -> None:
        """Blocks while the socket is full. Raises Disconnected, ProtocolError."""
        frame = encode_frame(message)
        try:
            self._sock.sendall(frame)
        except ConnectionError:
            raise Disconnected from None


def serve(channel: Channel, engine: Engine, heartbeat: float = HEARTBEAT_SECONDS) -> None:
    """Works until Shutdown or Disconnected. An exception in a step is not caught: the state is unknown then."""
    with LateCollections() as collections:
        _serve(channel, engine, heartbeat, collections)


def _serve(channel: Channel, engine: Engine, heartbeat: float, collections: LateCollections) -> None:
    num_idle = 0
    while True:
        messages = channel.receive(0.0 if engine.has_work else heartbeat)
        num_idle = 0 if messages or engine.has_work else num_idle + 1
        for message in messages:
            match message:
                case GenerateRequest() | EncodeRequest():
                    failed = _add(engine, message)
                    if failed is not None:
                        channel.send(StepOutputs([failed]))
                case Abort(ids):
                    engine.abort(ids)
                case TraceSteps() | LoadAdapter() | LoadModel() | Unload():
                    engine.ask(message)
                case Shutdown():
                    return
                case WorkerConfig():
                    raise ProtocolError("a second configuration")
        if engine.has_work:
            _send_outputs(channel, engine.step())
            collections.now_if(is_quiet=False)
        elif not messages:
            channel.send(Heartbeat())
            if num_idle == IDLE_BEATS:
                collections.now_if(is_quiet=True)
                release_free()
        for reply in engine.replies():
            channel.send(reply)


def _add(engine: Engine, request: GenerateRequest | EncodeRequest) -> Failed | None:
    """The answer to a request that the engine does not take."""
    try:
        engine.add(request)
    except RequestError as error:
        return Failed(request.id, "invalid", str(error))
    except Exception:
        _log.exception("request %d could not be added", request.id)
        return Failed(request.id, "internal", "the engine could not take the request")
    return None


def _send_outputs(channel: Channel, step: StepOutputs) -> None:
    """One frame a step; where that is too large, one for each output."""
    try:
        channel.send(step)
        return
    except ProtocolError:
        channel.send(replace(step, outputs=[]))
    for output in step.outputs:
        try:
            channel.send(StepOutputs([output]))
        except ProtocolError as error:
            channel.send(StepOutputs([Failed(output.id, "internal", f"the answer is too large: {error}")]))


def run(sock: socket.socket, build: Callable[[WorkerConfig], BuiltEngine]) -> int:
    """The life of a worker from its configuration to its end; the exit code."""
    channel = Channel(sock)
    try:
        config = _receive_config(channel)
        logs.configure(config.log_format)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        os.nice(config.niceness)  # taken over by the threads that torch starts from here on
        try:
            engine = build(config)
        except CheckpointError as error:
            channel.send(Fatal("checkpoint", str(error)))
            return 2
        except Exception as error:
            _log.exception("the engine could not be built")
            channel.send(Fatal("internal", f"{type(error).__name__}: {error}"))
            return 1
        engine.when_ready(channel.wake)
        channel.send(Ready(models=engine.infos, device=engine.infos[0].device if engine.infos else "cpu"))
        serve(channel, engine)
    except Disconnected:
        return 0
    except Exception:
        _log.exception("the engine loop ended")
        return 1
    return 0


def _receive_config(channel: Channel) -> WorkerConfig:
    while True:
        for message in channel.receive(HEARTBEAT_SECONDS):
            if isinstance(message, WorkerConfig):
                return message
            raise ProtocolError("the first message must be the configuration")


def main(arguments: Sequence[str] | None = None) -> int:
    """Takes over the socket that the client left open under `--fd`."""
    parser = argparse.ArgumentParser(prog="python -m app.engine.worker", description="The engine process.")
    parser.add_argument("--fd", type=int, required=True, help="the socket to the client")
    parser.add_argument("--flight", type=int, required=True, help="the memory of the flight recorder")
    given = parser.parse_args(arguments)
    bound_caches()
    recorder = FlightRecorder(given.flight)
    os.close(given.flight)
    # Signals go to the whole process group; when to end is the client's decision.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=given.fd) as sock:
        sock.set_inheritable(False)
        return run(sock, partial(build_engine, recorder=recorder))


if __name__ == "__main__":
    sys.exit(main())
