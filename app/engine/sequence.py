"""One list of tokens being computed, with its counters and tables. Knows no tensors and no clock."""

from dataclasses import dataclass, field
from enum import Enum

from app.engine.constraint import Matcher
from app.engine.protocol import EncodeRequest, FinishReason, GenerateRequest
from app.engine.rules import Rules


class Status(Enum):
    """Where a sequence is in its life; preemption takes it from running back to waiting."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True, eq=False)
class Sequence:
    """What it should have (`source_ids`, `token_ids`) and what is computed of it.

    An encoder-decoder sequence has a source and decoder tokens, a decoder-only one no source, an
    encoder-only one no decoder tokens: it ends after its encode. `arrival` is in seconds.
    """

    request: GenerateRequest | EncodeRequest
    model: str
    adapter: str | None
    arrival: float
    source_ids: list[int]
    token_ids: list[int]
    num_prompt_tokens: int
    max_tokens: int = 0
    is_encoded: bool = False
    num_computed_tokens: int = 0
    block_table: list[int] = field(default_factory=list)
    cross_block_table: list[int] = field(default_factory=list)
    status: Status = Status.WAITING
    finish_reason: FinishReason | None = None
    first_scheduled: float | None = None
    rules: Rules | None = None
    matcher: Matcher | None = None

    @property
    def id(self) -> int:
        """The id under which client and engine know it."""
        return self.request.id

    @property
    def order(self) -> tuple[int, float, int]:
        """Who goes first: higher priority, then earlier arrival."""
        return (-self.request.priority, self.arrival, self.request.id)

    @property
    def num_new_tokens(self) -> int:
        """Decoder tokens that it should have and that are not computed."""
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def num_completion_tokens(self) -> int:
        """Tokens sampled so far."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def needs_encode(self) -> bool:
        """Its source has not been through the encoder, or was preempted since."""
        return bool(self.source_ids) and not self.is_encoded

    @property
    def step_tokens(self) -> int:
        """Tokens that computing all of it that is missing would take from a step's budget."""
        return self.num_new_tokens + (len(self.source_ids) if self.needs_encode else 0)
