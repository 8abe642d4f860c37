"""Requests in flight: let in, counted, and waited for or cut off when the service ends."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from app.errors import QuartetError, Unavailable

_log = logging.getLogger("quartet.registry")


class InFlight:
    """All of it belongs to one event loop."""

    def __init__(self) -> None:
        self.is_draining = False
        self.handlers: set[asyncio.Task[Any]] = set()
        """Those that are at work."""
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopped: set[asyncio.Task[Any]] = set()

    @contextmanager
    def admit(self, handler: "asyncio.Task[Any] | None") -> Iterator[None]:
        """Counts a request in flight. Raises Unavailable while draining."""
        if self.is_draining or handler is None:
            raise Unavailable("the service is shutting down", code="draining", retry_after=5.0)
        self.handlers.add(handler)
        self._idle.clear()
        try:
            yield
        finally:
            self.handlers.discard(handler)
            self._stopped.discard(handler)
            if not self.handlers:
                self._idle.set()

    async def drain(self, limit: float) -> None:
        """Takes no new work, waits for what is in flight, and cancels what is not done in time."""
        self.is_draining = True
        try:
            async with asyncio.timeout(limit):
                await self._idle.wait()
        except TimeoutError:
            _log.warning("drain limit reached: %d requests are cut off", len(self.handlers))
            self._stopped = set(self.handlers)
            for handler in self._stopped:
                handler.cancel()
            await self._idle.wait()

    def drain_error(self, handler: "asyncio.Task[Any]") -> QuartetError | None:
        """What a handler that `drain` cancelled tells its client; None for any other."""
        if handler not in self._stopped:
            return None
        return Unavailable(
            "the service shut down before the request was done", code="draining", retry_after=5.0
        )
