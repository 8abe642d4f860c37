"""Whose work is done: noted where a request comes in, read where its turn is decided. Knows no HTTP."""

from contextvars import ContextVar


class Caller:
    """One request that came in; its `sender`, the key or the address that it came with; and its `kind`, what it was
    addressed to. Empty where unknown."""

    def __init__(self, sender: str = "", kind: str = "") -> None:
        self.sender, self.kind = sender, kind


caller: ContextVar[Caller | None] = ContextVar("caller", default=None)
"""Of what is running now; tasks that it starts take it over."""
