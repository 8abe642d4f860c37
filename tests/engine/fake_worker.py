"""An engine process without an engine: the name of the model says what happens to a request."""

import argparse
import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from app.engine.flight import FlightRecorder
from app.engine.framing import (
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    ClientMessage,
    WorkerMessage,
    client_messages,
    encode_frame,
)
from app.engine.protocol import (
    Abort,
    Encoded,
    EncodeRequest,
    Failed,
    Fatal,
    GenerateRequest,
    Heartbeat,
    Ready,
    Report,
    Shutdown,
    StepOutputs,
    TokenLogprobs,
    Tokens,
    WorkerConfig,
)
from app.engine.questions import (
    MAX_TRACED_STEPS,
    LoadAdapter,
    LoadModel,
    Question,
    Refused,
    Traced,
    TracedStep,
    TraceSteps,
    Unload,
)

_STEP = TracedStep(
    model="m",
    phase="decode",
    stages=[("schedule", 1.0, 1.5), ("run", 1.5, 2.0)],
    num_sequences=1,
    decoding_tokens=1,
    prompt_tokens=0,
    drafted_tokens=0,
    accepted_tokens=0,
    padding_tokens=0,
    preemptions=0,
    ids=[5],
    lengths=[9],
    computed=[1],
)

HEARTBEAT_SECONDS = 0.02
SLOW_SECONDS = 1.5


class FakeWorker:
    """Answers at once, or as the name says: hold, release, aborted, die, slow, garbage, oversize, invalid, internal;
    with `-midway` after two tokens and not again: die, hang. The recorder has what is held and what is being answered.
    """

    def __init__(self, sock: socket.socket, recorder: FlightRecorder) -> None:
        self._sock = sock
        self._recorder = recorder
        self._is_ready = False
        self._aborted: list[int] = []
        self._held: list[GenerateRequest | EncodeRequest] = []

    def run(self) -> int:
        messages = self._messages()
        config = next(messages)
        assert isinstance(config, WorkerConfig)
        match config.device:
            case "no-checkpoint":
                self._send(Fatal("checkpoint", "no such folder"))
                return 2
            case "broken":
                return 1
            case "never-ready":
                next(messages, None)
                return 0
        if config.device.startswith("ready-once:"):
            mark = Path(config.device.partition(":")[2])
            if mark.exists():
                next(messages, None)
                return 0
            mark.touch()
        self._send(Ready(models=[], device="fake"))
        self._is_ready = True
        if config.device == "short-lived":
            return 1
        self._send(Heartbeat())
        for message in messages:
            match message:
                case Shutdown():
                    return 0
                case Abort(ids):
                    self._aborted += ids
                    for held in self._held:
                        if held.model == "hold-until-abort" and held.id not in ids:
                            self._compute(held)
                case GenerateRequest() | EncodeRequest():
                    others = self._held if message.alone_until is None else []
                    self._recorder.begin(0.0, [(one.id, 1) for one in (*others, message)])
                    self._answer(message)
                case TraceSteps() | LoadAdapter() | LoadModel() | Unload():
                    self._reply(message)
                case WorkerConfig():
                    return 1
        return 0

    def _reply(self, question: Question) -> None:
        """Steps as many as asked for, an adapter is refused, none goes; the most steps, and "die", end the process."""
        match question:
            case TraceSteps(number, steps) if steps < MAX_TRACED_STEPS:
                self._send(Traced(number + 1000, []))  # nobody asked
                self._send(Traced(number, [_STEP] * steps))
            case LoadAdapter(number, adapter) if adapter.name != "die":
                self._send(Refused(number, "internal", "it broke"))
            case Unload():
                pass
            case _:
                os._exit(9)

    def _answer(self, request: GenerateRequest | EncodeRequest) -> None:
        match request.model:
            case "hold" | "hold-until-abort":
                self._held.append(request)
            case "release":
                for held in self._held:
                    self._compute(held)
                self._compute(request)
            case "die":
                os._exit(9)
            case "slow":
                self._recorder.begin(1.0, [(request.id, 1)])
                time.sleep(SLOW_SECONDS)
                self._compute(request)
            case "garbage":
                self._sock.sendall((3).to_bytes(HEADER_BYTES, "little") + b"\xff\xff\xff")
            case "oversize":
                self._sock.sendall((MAX_FRAME_BYTES + 1).to_bytes(HEADER_BYTES, "little"))
            case "invalid":
                self._send(StepOutputs([Failed(request.id, "invalid", "too long for the cache")]))
            case "internal":
                self._send(StepOutputs([Failed(request.id, "internal", "it broke")]))
            case "aborted":
                self._send(
                    StepOutputs([Tokens(id=request.id, token_ids=self._aborted, finish_reason="stop")])
                )
            case _:
                self._compute(request)

    def _compute(self, request: GenerateRequest | EncodeRequest) -> None:
        """Generation counts from 0 or on, one token a step, and reports the seed; an encoding is its ids."""
        if isinstance(request, EncodeRequest):
            data = b"".join(token_id.to_bytes(4, "little") for token_id in request.ids)
            self._send(StepOutputs([Encoded(id=request.id, shape=[len(request.ids)], data=data)]))
            return
        last = request.params.max_tokens - 1
        for token_id in range(len(request.said), last + 1):
            if token_id == 2 and request.model.endswith("-midway") and not request.said:
                self._recorder.begin(0.0, [(request.id, len(request.prompt_ids) + token_id)])
                os._exit(9) if request.model.startswith("die") else signal.pause()
            tokens = Tokens(
                id=request.id,
                token_ids=[token_id],
                logprobs=[TokenLogprobs(-1.0)] if request.params.logprobs is not None else None,
                finish_reason="length" if token_id == last else None,
                prompt_logprobs=None if request.params.prompt_logprobs is None else [TokenLogprobs(-2.0)],
                queue_duration=0.5 if token_id == 0 else None,
            )
            report = Report(
                model=request.model,
                phase="decode",
                duration_s=0.001,
                batch_size=1,
                batch_tokens=1,
                waiting={"seed": request.params.seed or 0},
            )
            begun = [] if token_id else [request.id]
            self._send(StepOutputs([tokens], report, time.monotonic(), begun))

    def _messages(self) -> Iterator[ClientMessage]:
        frames = client_messages()
        while True:
            if not select.select([self._sock], [], [], HEARTBEAT_SECONDS)[0]:
                if self._is_ready:
                    self._send(Heartbeat())
                continue
            data = self._sock.recv(65536)
            if not data:
                return
            yield from frames.feed(data)

    def _send(self, message: WorkerMessage) -> None:
        self._sock.sendall(encode_frame(message))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--flight", type=int, required=True)
    given = parser.parse_args()
    with socket.socket(fileno=given.fd) as sock:
        code = FakeWorker(sock, FlightRecorder(given.flight)).run()
    raise SystemExit(code)


if __name__ == "__main__":
    main()
