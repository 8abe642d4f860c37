"""From an engine step's answers to those who wait for them, a few in each turn of the event loop."""

import asyncio
from collections import deque
from typing import Generic, TypeVar

Item = TypeVar("Item")

AT_ONCE = 32
"""How many are handed out in a turn: each wakes somebody, who writes to a client in the next one."""


class Outlet(Generic[Item]):
    """A step of hundreds of sequences would otherwise have all of their streams written before the loop looks at any
    connection again, and whoever comes or is refused meanwhile waits for that. What was put in first is out first."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[asyncio.Queue[Item], Item]] = deque()

    def put(self, queue: "asyncio.Queue[Item]", item: Item) -> None:
        """`item` into an unbounded `queue`, in this turn of the loop or in one of the next."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._hand_out)
        self._waiting.append((queue, item))

    def _hand_out(self) -> None:
        for _ in range(min(AT_ONCE, len(self._waiting))):
            queue, item = self._waiting.popleft()
            queue.put_nowait(item)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._hand_out)
