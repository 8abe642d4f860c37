"""How fast work gets done, as measured while there was some; and how long it takes until there is room again."""

import math
from collections import deque

WINDOW_SECONDS = 10.0
MOST_SECONDS = 60.0


class Throughput:
    """Times are `time.monotonic()`. Only seconds in which there was work count, so that idle time makes nobody look
    slow."""

    def __init__(self, window: float = WINDOW_SECONDS) -> None:
        self._window = window
        self._done: deque[tuple[float, int]] = deque()  # busy seconds until then, how many tokens
        self._done_tokens = 0
        self._busy_seconds = 0.0
        self._busy_since: float | None = None
        self._promised: deque[tuple[float, int, int]] = deque()  # until when, how many sequences and tokens
        self._promised_requests = self._promised_tokens = 0

    def resume(self, now: float) -> None:
        """There is work."""
        if self._busy_since is None:
            self._busy_since = now

    def pause(self, now: float) -> None:
        """There is none left."""
        self._busy_seconds = self._clock(now)
        self._busy_since = None

    def note(self, now: float, tokens: int) -> None:
        """A sequence that might have taken so many tokens is done."""
        clock = self._clock(now)
        self._done.append((clock, tokens))
        self._done_tokens += tokens
        while self._done[0][0] <= clock - self._window:
            self._done_tokens -= self._done.popleft()[1]

    def seconds_for(self, now: float, requests: int, tokens: int = 0) -> float:
        """How long so much takes at the speed of late; 0 where nothing is known."""
        if not self._done:
            return 0.0
        return self._span(now) * max(requests / len(self._done), tokens / max(self._done_tokens, 1))

    def carried(self, now: float, seconds: float) -> float:
        """How many are done in so long at the speed of late, which is known."""
        return seconds * len(self._done) / self._span(now)

    def is_known(self, now: float, seconds: float, least: int) -> bool:
        """Whether so many at least were done, in so many busy seconds at least."""
        return len(self._done) >= least and self._span(now) >= seconds

    def promise(self, now: float, requests: int, tokens: int) -> float:
        """Whole seconds until there is room for so much more, behind those who were told before and are not back."""
        while self._promised and self._promised[0][0] <= now:
            _, others, their_tokens = self._promised.popleft()
            self._promised_requests -= others
            self._promised_tokens -= their_tokens
        seconds = self.seconds_for(now, self._promised_requests + requests, self._promised_tokens + tokens)
        seconds = float(min(max(math.ceil(seconds), 1), MOST_SECONDS))
        self._promised.append((now + seconds, requests, tokens))
        self._promised_requests += requests
        self._promised_tokens += tokens
        return seconds

    def _span(self, now: float) -> float:
        """Busy seconds in which was done what is known."""
        return self._clock(now) - max(0.0, self._done[-1][0] - self._window)

    def _clock(self, now: float) -> float:
        return self._busy_seconds + (0.0 if self._busy_since is None else now - self._busy_since)
