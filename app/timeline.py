"""What the engine does for one request, and when: noted while it happens, for requests that are traced.

Times are `time.monotonic()`'s. It stays as small for a thousand sequences as for one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from app.engine.protocol import GenerateRequest, Request
from app.engine.sampling_params import SamplingParams


@dataclass(frozen=True)
class Phase:
    """A part of a request's time, with its name."""

    name: str
    start: float
    end: float


@dataclass
class Timeline:
    """Of all sequences of one request together: the first time that any of them got so far, and the last one's end.

    `params` are those of the first that generates; None where nothing is generated.
    """

    submitted: float | None = None
    begun: float | None = None
    first_token: float | None = None
    ended: float | None = None
    num_sequences: int = 0
    num_open: int = 0
    num_preemptions: int = 0
    params: SamplingParams | None = None
    restarts: list[float] = field(default_factory=list)

    def submit(self, now: float, requests: Sequence[Request]) -> None:
        """The engine's queue has taken them."""
        if self.submitted is None:
            self.submitted = now
        self.num_sequences += len(requests)
        self.num_open += len(requests)
        if self.params is None:
            self.params = next((one.params for one in requests if isinstance(one, GenerateRequest)), None)

    def begin(self, at: float) -> None:
        """The engine computed a sequence for the first time in the step that began `at`."""
        if self.begun is None:
            self.begun = at

    def say(self, now: float) -> None:
        """A sequence's tokens are here."""
        if self.first_token is None:
            self.first_token = now

    def preempt(self) -> None:
        """A sequence gave its blocks back and is computed again."""
        self.num_preemptions += 1

    def restart(self, now: float) -> None:
        """The engine had ended, and another goes on with this."""
        self.restarts.append(now)

    def end(self, now: float) -> None:
        """A sequence has ended, or nobody waits for it any more."""
        self.num_open -= 1
        self.ended = now

    def phases(self, end: float) -> list[Phase]:
        """What the time was spent on, in order and without gaps; what was not over is cut off at `end`."""
        if self.submitted is None:
            return []
        ended = end if self.num_open or self.ended is None else self.ended
        if self.begun is None:
            return [Phase("queue", self.submitted, ended)]
        begun = max(self.submitted, self.begun)
        phases = [Phase("queue", self.submitted, begun)]
        if self.params is None:
            phases.append(Phase("encode", begun, ended))
        elif self.params.num_beams > 1:
            phases.append(Phase("search", begun, ended))
        elif self.first_token is None:
            phases.append(Phase("prefill", begun, ended))
        else:
            phases.append(Phase("prefill", begun, self.first_token))
            if ended > self.first_token:
                phases.append(Phase("decode", self.first_token, ended))
        return phases
