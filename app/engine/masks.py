"""Computes the masks of a step in a thread of its own: one that does not end must not hold the engine up.

llguidance bounds the work of a mask, but not everywhere, and nothing can stop a thread in a library. One that is stuck
is left behind with its grammar; a new one takes its place.
"""

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

MASK_SECONDS = 2.0
"""A mask takes tens of microseconds, and within llguidance's limits some tens of milliseconds at most."""
STACK_BYTES = 64 * 2**20

_log = logging.getLogger(__name__)


class Group(Protocol):
    """What those have in common that wait for the same locks."""

    fault: str | None


class Fillable(Protocol):
    """The part of a matcher that is needed here."""

    @property
    def grammar(self) -> Group: ...

    def fill(self) -> None: ...

    def give_up(self, fault: str) -> None: ...


class Masks:
    """Fills the masks of many matchers, in order."""

    def __init__(self, seconds: float = MASK_SECONDS) -> None:
        self._seconds = seconds
        self._filler: _Filler | None = None

    def fill(self, matchers: Sequence[Fillable]) -> None:
        """Each matcher knows what may follow afterwards; one whose mask does not end in time has given up."""
        start = 0
        while start < len(matchers):
            if self._filler is None:
                self._filler = _Filler()
            stopped = self._filler.work(matchers[start:], self._seconds)
            if stopped is None:
                return
            matcher = matchers[start + stopped.place]
            if stopped.fault is None:
                self._filler = None
                matcher.grammar.fault = "takes too long to follow"
            else:
                _log.error("a mask could not be computed", exc_info=stopped.fault)
                matcher.grammar.fault = "cannot be followed"
            matcher.give_up(matcher.grammar.fault)
            start += stopped.place + 1


@dataclass(frozen=True)
class _Stopped:
    """Which of the matchers was not filled; `fault` None where it takes too long."""

    place: int
    fault: BaseException | None = None


class _Filler:
    """One thread and what it is told. Once left behind it touches no matcher but the one that it is stuck in."""

    def __init__(self) -> None:
        self._jobs: queue.SimpleQueue[Sequence[Fillable]] = queue.SimpleQueue()
        self._ends: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._num_done = 0
        self._is_left = False
        self._lock = threading.Lock()  # of the two above
        start_thread(self._run, "masks")

    def work(self, matchers: Sequence[Fillable], seconds: float) -> _Stopped | None:
        """Blocks until all are filled, or one failed or took longer than `seconds`."""
        self._num_done = seen = 0
        self._jobs.put(matchers)
        while True:
            try:
                fault = self._ends.get(timeout=seconds)
            except queue.Empty:
                with self._lock:
                    self._is_left = self._num_done == seen
                    if self._is_left:
                        return _Stopped(seen)
                    seen = self._num_done
                continue
            return None if fault is None else _Stopped(self._num_done, fault)

    def _run(self) -> None:
        while True:
            matchers = self._jobs.get()
            try:
                for matcher in matchers:
                    matcher.fill()
                    with self._lock:
                        if self._is_left:
                            return
                        self._num_done += 1
            except BaseException as fault:
                self._ends.put(fault)
            else:
                self._ends.put(None)
            del matchers


def start_thread(work: Callable[[], None], name: str) -> None:
    """A thread that does not keep the process alive, with room for the recursion of llguidance's parsers."""
    before = threading.stack_size(STACK_BYTES)
    try:
        threading.Thread(target=work, name=name, daemon=True).start()
    finally:
        threading.stack_size(before)
