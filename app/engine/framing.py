"""Which messages cross the socket, and how: a four-byte little-endian length and one message in msgpack.

Nothing here knows asyncio, processes or the device.
"""

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import msgspec

from app.engine.protocol import (
    Abort,
    EncodeRequest,
    Failed,
    Fatal,
    GenerateRequest,
    Heartbeat,
    Message,
    Ready,
    Shutdown,
    StepOutputs,
    WorkerConfig,
)
from app.engine.questions import Question, Reply

MAX_FRAME_BYTES = 64 * 2**20
HEADER_BYTES = 4

ClientMessage = WorkerConfig | GenerateRequest | EncodeRequest | Abort | Question | Shutdown
WorkerMessage = Ready | Fatal | StepOutputs | Failed | Reply | Heartbeat


class ProtocolError(Exception):
    """What came over the socket is not a message, or what should go over it is too large for one frame."""


_encoder = msgspec.msgpack.Encoder()


def encode_frame(message: Message) -> bytearray:
    """The bytes of one frame. Raises `ProtocolError` where the message does not fit."""
    frame = bytearray(HEADER_BYTES)
    _encoder.encode_into(message, frame, HEADER_BYTES)
    length = len(frame) - HEADER_BYTES
    if length > MAX_FRAME_BYTES:
        raise ProtocolError(f"a message of {length} bytes is over the limit of {MAX_FRAME_BYTES}")
    frame[:HEADER_BYTES] = length.to_bytes(HEADER_BYTES, "little")
    return frame


Incoming = TypeVar("Incoming")


class FrameBuffer(Generic[Incoming]):
    """Turns bytes as they come into messages; whole frames leave, the beginning of the next one stays."""

    def __init__(self, decode: Callable[[bytes], Incoming]) -> None:
        self._decode_body = decode
        self._bytes = bytearray()

    def feed(self, data: bytes | bytearray) -> Iterator[Incoming]:
        """The messages that `data` completes. Raises `ProtocolError`; the stream is useless after that."""
        self._bytes += data
        start = 0
        try:
            while len(self._bytes) - start >= HEADER_BYTES:
                body = start + HEADER_BYTES
                length = int.from_bytes(self._bytes[start:body], "little")
                if length > MAX_FRAME_BYTES:
                    raise ProtocolError(f"a frame of {length} bytes is over the limit of {MAX_FRAME_BYTES}")
                if len(self._bytes) - body < length:
                    break
                start = body + length
                yield self._decode(bytes(self._bytes[body:start]))
        finally:
            del self._bytes[:start]

    def _decode(self, body: bytes) -> Incoming:
        try:
            return self._decode_body(body)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ProtocolError(f"not a message: {error}") from error


def client_messages() -> FrameBuffer[ClientMessage]:
    """What the worker reads with."""
    return FrameBuffer(msgspec.msgpack.Decoder(ClientMessage).decode)


def worker_messages() -> FrameBuffer[WorkerMessage]:
    """What the client reads with."""
    return FrameBuffer(msgspec.msgpack.Decoder(WorkerMessage).decode)
