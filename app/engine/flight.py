"""The flight recorder: what the engine process is at, in memory that outlives it.

The worker writes before each step and the client reads after a crash, or while it wonders whether a step hangs. The
memory belongs to a descriptor that both hold and that has no name, so nothing is left behind by whoever dies.
"""

import mmap
import os
import struct
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

MOST_ENTRIES = 4096
"""Sequences that are written down; a step with more of them is told in part."""

_HEAD = struct.Struct("<ddq")
_ENTRY = struct.Struct("<qq")
_SIZE = _HEAD.size + MOST_ENTRIES * _ENTRY.size


@dataclass(frozen=True)
class Flight:
    """What was going on: since when (`time.monotonic()`; 0 between steps), how many seconds it was expected to take,
    and the tokens that each request in it had, by id."""

    started: float = 0.0
    expected: float = 0.0
    lengths: dict[int, int] = field(default_factory=dict)


class FlightRecorder:
    """One engine process's; `fd` is the descriptor that `make_flight` made."""

    def __init__(self, fd: int) -> None:
        self._memory = mmap.mmap(fd, _SIZE)

    def begin(self, expected: float, sequences: Iterable[tuple[int, int]]) -> None:
        """Something begins that could be the end: `sequences` are (request id, number of tokens)."""
        count, place = 0, _HEAD.size
        for request_id, length in sequences:
            if count == MOST_ENTRIES:
                break
            _ENTRY.pack_into(self._memory, place, request_id, length)
            count, place = count + 1, place + _ENTRY.size
        _HEAD.pack_into(self._memory, 0, time.monotonic(), expected, count)

    def end(self) -> None:
        """It is over, and nothing is at risk."""
        _HEAD.pack_into(self._memory, 0, 0.0, 0.0, 0)

    def read(self) -> Flight:
        """What was written last. Of several lengths of a request, as beams have, the largest counts."""
        started, expected, count = _HEAD.unpack_from(self._memory, 0)
        lengths: dict[int, int] = {}
        for number in range(min(count, MOST_ENTRIES)):
            request_id, length = _ENTRY.unpack_from(self._memory, _HEAD.size + number * _ENTRY.size)
            lengths[request_id] = max(length, lengths.get(request_id, 0))
        return Flight(started, expected, lengths)

    def close(self) -> None:
        """Gives the memory back, here."""
        self._memory.close()


def make_flight() -> int:
    """A descriptor for a recorder, to be handed on and then closed."""
    fd = os.memfd_create("quartet-flight", 0)
    os.ftruncate(fd, _SIZE)
    return fd


@contextmanager
def closing_fd(fd: int) -> Iterator[None]:
    """Closes it at the end."""
    try:
        yield
    finally:
        os.close(fd)
