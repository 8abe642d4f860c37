"""How far a level is, and how long it may still take: a bar where there is tqdm and a terminal, else lines."""

import sys
import time
from collections.abc import Callable
from typing import Any, Protocol, TextIO

from app.bench.outcome import Outcome

_LINE_SECONDS = 10.0


class Progress(Protocol):
    """Of one level."""

    def ended(self, outcome: Outcome) -> None:
        """One more."""

    def close(self) -> None:
        """The level is over."""


def follow(
    title: str,
    num_requests: int | None,
    seconds: float | None,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Progress:
    """Until so many requests have ended, or for so many seconds, whichever is known; on stderr."""
    stream = stream or sys.stderr
    if num_requests is not None and stream.isatty():
        try:
            from tqdm import tqdm
        except ModuleNotFoundError:
            pass
        else:
            return _Bar(tqdm(total=num_requests, desc=title, unit=" requests", leave=False, file=stream))
    return _Lines(title, num_requests, seconds, stream, clock)


class _Bar:
    def __init__(self, bar: Any) -> None:
        self._bar = bar
        self._failed = 0

    def ended(self, outcome: Outcome) -> None:
        self._failed += outcome.failure is not None
        if self._failed:
            self._bar.set_postfix(unanswered=self._failed, refresh=False)
        self._bar.update()

    def close(self) -> None:
        self._bar.close()


class _Lines:
    def __init__(
        self,
        title: str,
        num_requests: int | None,
        seconds: float | None,
        stream: TextIO,
        clock: Callable[[], float],
    ) -> None:
        self._title, self._num_requests, self._seconds = title, num_requests, seconds
        self._stream, self._clock = stream, clock
        self._started = self._told = clock()
        self._num_ended = self._num_failed = 0

    def ended(self, outcome: Outcome) -> None:
        self._num_ended += 1
        self._num_failed += outcome.failure is not None
        if self._clock() - self._told >= _LINE_SECONDS:
            self._told = self._clock()
            self._tell()

    def close(self) -> None:
        pass  # the table tells the rest

    def _tell(self) -> None:
        passed = self._told - self._started
        parts = [f"{self._num_ended} of {self._num_requests} requests"]
        if self._num_requests is None:
            parts = [f"{self._num_ended} requests"]
        if self._num_failed:
            parts.append(f"{self._num_failed} not answered")
        left = [] if self._seconds is None else [max(0.0, self._seconds - passed)]
        if self._num_requests is not None:
            left.append(passed * (self._num_requests / self._num_ended - 1))
        parts.append(f"{min(left, default=0.0):.0f} s left")
        print(f"{self._title}: {', '.join(parts)}", file=self._stream, flush=True)
