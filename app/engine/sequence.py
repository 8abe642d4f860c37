"""One list of tokens being computed, with its counters and tables. Knows no tensors and no clock."""

from dataclasses import dataclass, field, replace
from enum import Enum

from app.engine.constraint import Matcher
from app.engine.protocol import EncodeRequest, FinishReason, GenerateRequest, Hypothesis, TokenLogprobs
from app.engine.rules import Rules
from app.engine.sampling_params import SamplingParams
from app.engine.speculation import NO_DRAFT, Draft, Speculator
from app.engine.token_counts import TokenCounts
from model.beam_search import BeamSearch

AGING_SECONDS = 5.0
"""Of waiting that make up for a level of priority, and for a turn that others have before."""
SECONDS_A_TOKEN = 0.001
"""Of waiting that make up for a token more that is to be read before the first one is said."""
MOST_LENGTH_SECONDS = 0.5
"""Of waiting that make up for a longer text, however long."""
MOST_TOLD = 256
"""Prompt tokens a step whose logits are wanted, each as wide as the vocabulary."""


class Status(Enum):
    """Where a sequence is in its life; preemption takes it from running back to waiting."""

    WAITING = "waiting"
    RUNNING = "running"
    FINISHED = "finished"


@dataclass(slots=True, eq=False)
class BeamGroup:
    """One beam search and its running sequences, best first. They share every step and are preempted together."""

    search: BeamSearch[Hypothesis]
    members: list["Sequence"] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class Sequence:
    """What it should have (`source_ids`, `token_ids`) and what is computed of it.

    An encoder-decoder sequence has a source and decoder tokens, a decoder-only one no source, an
    encoder-only one no decoder tokens: it ends after its encode. `arrival` is in seconds; `turn` too, and says who goes
    first: it is given to it when it joins the line. One that is a beam
    belongs to a `group` of beams, and keeps the log-probabilities of what it said where they are asked for.
    One that may be what engines die of has its steps to itself until it has more than `alone_until` tokens.
    A `draft` is what may follow `token_ids` and is computed along with the last of them.
    `num_cached_tokens` of the prompt (of the source, where there is one) were found computed when it first ran; None
    before that. The keys and the number of registered blocks are the prefix cache's.
    """

    request: GenerateRequest | EncodeRequest
    model: str
    adapter: str | None
    arrival: float
    source_ids: list[int]
    token_ids: list[int]
    num_prompt_tokens: int
    max_tokens: int = 0
    eos_token_ids: tuple[int, ...] = ()
    is_encoded: bool = False
    num_computed_tokens: int = 0
    block_table: list[int] = field(default_factory=list)
    cross_block_table: list[int] = field(default_factory=list)
    root_key: bytes = b""
    block_keys: list[bytes] = field(default_factory=list)
    num_registered_blocks: int = 0
    num_cached_tokens: int | None = None
    status: Status = Status.WAITING
    turn: float = 0.0
    alone_until: int | None = None
    finish_reason: FinishReason | None = None
    first_scheduled: float | None = None
    rules: Rules | None = None
    counts: TokenCounts | None = None
    matcher: Matcher | None = None
    speculator: Speculator | None = None
    draft: Draft = NO_DRAFT
    prompt_logprobs: list[TokenLogprobs] = field(default_factory=list)
    group: BeamGroup | None = None
    logprobs: list[TokenLogprobs] = field(default_factory=list)

    def fork(self) -> "Sequence":
        """Another that begins with the same tokens, and with tables of the same blocks."""
        return replace(
            self,
            token_ids=list(self.token_ids),
            block_table=list(self.block_table),
            cross_block_table=list(self.cross_block_table),
            block_keys=list(self.block_keys),
            rules=None if self.rules is None else self.rules.fork(),
            counts=None if self.counts is None else self.counts.fork(),
            logprobs=list(self.logprobs),
        )

    @property
    def unit(self) -> list["Sequence"]:
        """What is scheduled, preempted and ended together: a group of beams, or itself."""
        return [self] if self.group is None else self.group.members

    @property
    def width(self) -> int:
        """How many sequences its unit may become."""
        return 1 if self.group is None else self.group.search.settings.num_beams

    @property
    def id(self) -> int:
        """The id under which client and engine know it."""
        return self.request.id

    @property
    def params(self) -> SamplingParams:
        """How its tokens are chosen; only one that generates has them."""
        assert isinstance(self.request, GenerateRequest)
        return self.request.params

    @property
    def order(self) -> tuple[float, int]:
        """Who goes first; the order of two never changes."""
        return (self.turn, self.request.id)

    @property
    def length_seconds(self) -> float:
        """How much sooner than another it must have come for the same turn, as it is so long."""
        return min(SECONDS_A_TOKEN * (len(self.source_ids) + self.num_prompt_tokens), MOST_LENGTH_SECONDS)

    @property
    def most_at_once(self) -> int:
        """Tokens that one step may compute of it."""
        return min(self.num_new_tokens, MOST_TOLD) if self.tells_prompt else self.num_new_tokens

    @property
    def num_new_tokens(self) -> int:
        """Decoder tokens that it should have and that are not computed."""
        return len(self.token_ids) - self.num_computed_tokens

    @property
    def tells_prompt(self) -> bool:
        """Log-probabilities of its prompt, or of its targets, are asked for: those must be computed."""
        return isinstance(self.request, GenerateRequest) and self.request.params.prompt_logprobs is not None

    @property
    def next_told(self) -> int:
        """The position of the next token to tell of, where `tells_prompt`."""
        assert isinstance(self.request, GenerateRequest)
        targets = len(self.request.target_ids)
        first = self.num_prompt_tokens - targets if targets else 1
        return first + len(self.prompt_logprobs)

    def places_to_tell(self, stop: int) -> range:
        """Of the positions up to `stop` that a step computes, those whose logits tell of the prompt's next token."""
        if not self.tells_prompt:
            return range(0)
        first = max(self.num_computed_tokens, self.next_told - 1)
        return range(first, max(first, min(stop, self.num_prompt_tokens - 1)))

    @property
    def can_speculate(self) -> bool:
        """Can several of its next tokens be sampled at once? Rules read what was really said, and no more; beams go
        on in many ways."""
        return self.rules is None and self.group is None

    @property
    def num_completion_tokens(self) -> int:
        """Tokens sampled so far."""
        return len(self.token_ids) - self.num_prompt_tokens

    @property
    def needs_encode(self) -> bool:
        """Its source has not been through the encoder, or was preempted since."""
        return bool(self.source_ids) and not self.is_encoded
