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
        self._held: dict[asyncio.Task[Any], set[str]] = {}
        self._changed: asyncio.Event | None = None

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
            if self._held.pop(handler, None) and self._changed is not None:
                self._changed.set()
                self._changed = None
            if not self.handlers:
                self._idle.set()

    def hold(self, address: str) -> None:
        """The handler that asks, if it is one, is at work on weights that the engine knows by `address`, to its end."""
        handler = asyncio.current_task()
        if handler is not None and handler in self.handlers:
            self._held.setdefault(handler, set()).add(address)

    async def until_left(self, address: str) -> None:
        """Returns when nobody is at work on these weights."""
        while any(address in held for held in self._held.values()):
            self._changed = self._changed or asyncio.Event()
            await self._changed.wait()

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
