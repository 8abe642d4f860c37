"""What the client asks the engine process beside requests, and the replies. The client numbers its questions."""

import msgspec

from app.engine.protocol import Message, Phase

MAX_TRACED_STEPS = 1024


class TraceSteps(Message, frozen=True):
    """What were the last steps, 1 to MAX_TRACED_STEPS of them? The answer is `Traced`."""

    id: int
    steps: int


class TracedStep(msgspec.Struct, frozen=True, array_like=True, kw_only=True):
    """One step: its stages as (name, began, ended), in seconds of a clock that never goes back.

    Side by side, of its first sequences: `ids` of their requests, `lengths` in tokens after the step, source included,
    and how many decoder tokens the step `computed`.
    """

    model: str
    phase: Phase
    stages: list[tuple[str, float, float]]
    num_sequences: int
    decoding_tokens: int
    prompt_tokens: int
    drafted_tokens: int
    accepted_tokens: int
    padding_tokens: int
    preemptions: int
    ids: list[int]
    lengths: list[int]
    computed: list[int]


class Traced(Message, frozen=True):
    """The last steps, oldest first; fewer where the engine has not made so many."""

    id: int
    steps: list[TracedStep]


Question = TraceSteps
Reply = Traced
