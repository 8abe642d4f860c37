"""How much a key may ask for in a minute: requests, and tokens once they are counted."""

import time
from collections.abc import Callable

from app.errors import RateLimited


class _Bucket:
    """Holds a minute's worth at most, refills steadily, and may be overdrawn."""

    def __init__(self, unit: str, per_minute: int, clock: Callable[[], float]) -> None:
        self.unit = unit
        self.per_minute = per_minute
        self._clock = clock
        self._level = float(per_minute)
        self._filled_at = clock()

    def wait(self) -> float:
        """Seconds until it holds at least one; 0 when it does."""
        self._refill()
        return max(0.0, (1.0 - self._level) * 60.0 / self.per_minute)

    def take(self, amount: int) -> None:
        self._refill()
        self._level -= amount

    def _refill(self) -> None:
        now = self._clock()
        self._level = min(
            float(self.per_minute), self._level + (now - self._filled_at) * self.per_minute / 60.0
        )
        self._filled_at = now


class Rates:
    """Limits for each key on its own, None for no limit. Without keys all clients are one.

    A request's tokens are known when it ends, so the last one before the limit may go over it; what it took too much is
    waited for.
    """

    def __init__(
        self,
        requests: int | None = None,
        tokens: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._requests = requests
        self._tokens = tokens
        self._clock = clock
        self._buckets: dict[str, tuple[_Bucket | None, _Bucket | None]] = {}

    def admit(self, name: str) -> None:
        """Counts a request of the key `name`. Raises RateLimited when its minute is used up."""
        requests, tokens = self._of(name)
        for bucket in (requests, tokens):
            wait = bucket.wait() if bucket is not None else 0.0
            if bucket is not None and wait > 0.0:
                raise RateLimited(
                    f"over the limit of {bucket.per_minute} {bucket.unit} a minute", retry_after=wait
                )
        if requests is not None:
            requests.take(1)

    def charge(self, name: str, num_tokens: int) -> None:
        """Counts what a request of the key `name` cost."""
        _, tokens = self._of(name)
        if tokens is not None:
            tokens.take(num_tokens)

    def _of(self, name: str) -> tuple[_Bucket | None, _Bucket | None]:
        if name not in self._buckets:
            self._buckets[name] = (
                _Bucket("requests", self._requests, self._clock) if self._requests is not None else None,
                _Bucket("tokens", self._tokens, self._clock) if self._tokens is not None else None,
            )
        return self._buckets[name]
