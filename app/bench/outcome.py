"""What came of one request."""

from dataclasses import dataclass, field
from itertools import pairwise

REFUSED = "refused"


@dataclass
class Outcome:
    """Moments are seconds of the event loop's clock. `failure` is None when the whole answer came."""

    planned: float
    """When it was to be sent; all latencies count from here, so that waiting for the generator is not left out."""
    sent: float
    asked_prompt_tokens: int | None = None
    asked_output_tokens: int | None = None
    end: float = 0.0
    pieces: list[float] = field(default_factory=list)
    """When each piece of text came, of an answer that was streamed."""
    failure: str | None = None
    """`refused` (429), `HTTP 500` and the like, timeout, connect, closed, protocol, or `error event` in a stream."""
    message: str = ""
    retry_after: float | None = None
    prompt_tokens: int | None = None
    """As the server counted, as the next."""
    output_tokens: int | None = None

    def fail(self, failure: str, message: str) -> None:
        """There is no whole answer."""
        self.failure, self.message = failure, message

    @property
    def lateness(self) -> float:
        """Of the generator."""
        return self.sent - self.planned

    @property
    def ttft(self) -> float | None:
        """Until the first piece of text; None where nothing was streamed."""
        return self.pieces[0] - self.planned if self.pieces else None

    @property
    def end_to_end(self) -> float:
        """Until the end, or until it failed."""
        return self.end - self.planned

    @property
    def gaps(self) -> list[float]:
        """Between one piece of text and the next."""
        return [later - earlier for earlier, later in pairwise(self.pieces)]

    @property
    def per_token(self) -> float | None:
        """The mean time of a token after the first one; None where that cannot be said."""
        count = self.counted_output_tokens
        return (self.pieces[-1] - self.pieces[0]) / (count - 1) if self.pieces and count > 1 else None

    @property
    def counted_output_tokens(self) -> int:
        """The server's number, or else the pieces, which are fewer when several tokens come in one."""
        return len(self.pieces) if self.output_tokens is None else self.output_tokens

    @property
    def counted_prompt_tokens(self) -> int:
        """The server's number, or else what was asked for."""
        return (self.asked_prompt_tokens or 0) if self.prompt_tokens is None else self.prompt_tokens
