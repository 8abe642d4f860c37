"""Whose work is done: noted where a request comes in, read where its turn is decided. Knows no HTTP."""

from contextvars import ContextVar


class Caller:
    """One request that came in, and its `sender`: the key or the address that it came with, empty where unknown."""

    def __init__(self, sender: str = "") -> None:
        self.sender = sender


caller: ContextVar[Caller | None] = ContextVar("caller", default=None)
"""Of what is running now; tasks that it starts take it over."""
