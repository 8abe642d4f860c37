"""The client's open questions to the engine process. Each gets one reply, or the error that ends them all."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count

from app.engine.questions import Reply
from app.errors import QuartetError


class Inquiries:
    """All of it belongs to one event loop."""

    def __init__(self) -> None:
        self._numbers = count(1)
        self._open: dict[int, asyncio.Future[Reply]] = {}

    @contextmanager
    def open(self) -> Iterator[tuple[int, asyncio.Future[Reply]]]:
        """A new question's number, and what its reply will be; a reply that comes when it is left is dropped."""
        number = next(self._numbers)
        reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._open[number] = reply
        try:
            yield number, reply
        finally:
            del self._open[number]

    def deliver(self, reply: Reply) -> None:
        """Somebody may wait for it."""
        waiting = self._open.get(reply.id)
        if waiting is not None and not waiting.done():
            waiting.set_result(reply)

    def fail_all(self, error: QuartetError) -> None:
        """No reply comes any more."""
        for waiting in self._open.values():
            if not waiting.done():
                waiting.set_exception(error)
