"""Whose work is done: noted where a request comes in, read where its turn is decided. Knows no HTTP."""

from contextvars import ContextVar

from app.timeline import Timeline


class Caller:
    """One request that came in; its `sender`, the key or the address that it came with; and its `kind`, what it was
    addressed to. Empty where unknown. `timeline` is where to note what is done for it, if anywhere.
    """

    def __init__(self, sender: str = "", kind: str = "", timeline: Timeline | None = None) -> None:
        self.sender, self.kind, self.timeline = sender, kind, timeline


caller: ContextVar[Caller | None] = ContextVar("caller", default=None)
"""Of what is running now; tasks that it starts take it over."""
