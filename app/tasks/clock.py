"""Times of one sequence's tokens, for the metrics."""

import time

from app.tasks.base import Usage


class TokenClock:
    """When one sequence's tokens came: the first one's time, and the mean gap between them."""

    def __init__(self, usage: Usage) -> None:
        self._usage = usage
        self._first = self._last = 0.0
        self._count = 0

    def tick(self, num_tokens: int) -> None:
        """So many tokens are here now."""
        self._last = time.monotonic()
        if not self._count:
            self._first = self._last
            self._usage.first_token_at = self._usage.first_token_at or self._last
        self._count += num_tokens

    def stop(self) -> None:
        """The sequence ended."""
        if self._count > 1:
            self._usage.token_gaps.append((self._last - self._first) / (self._count - 1))
