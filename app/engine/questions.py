"""What the client asks the engine process beside requests, and the replies. The client numbers its questions."""

from typing import Literal

import msgspec

from app.engine.protocol import AdapterSpec, Message, ModelInfo, ModelSpec, Phase

MAX_TRACED_STEPS = 1024


class TraceSteps(Message, frozen=True):
    """What were the last steps, 1 to MAX_TRACED_STEPS of them? The answer is `Traced`."""

    id: int
    steps: int


class LoadAdapter(Message, frozen=True):
    """Serve one more adapter, while requests go on. The answer is `Loaded`."""

    id: int
    adapter: AdapterSpec


class LoadModel(Message, frozen=True):
    """Serve one more model, while requests go on. The answer is `Loaded`."""

    id: int
    model: ModelSpec


class Unload(Message, frozen=True):
    """Take no more requests for a model or an adapter. The answer is `Unloaded`, when those that it has are done."""

    id: int
    name: str


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


class Loaded(Message, frozen=True):
    """Requests for it may come."""

    id: int
    info: ModelInfo


class Unloaded(Message, frozen=True):
    """It was served; its weights are freed."""

    id: int


class Refused(Message, frozen=True):
    """Nothing has changed: "invalid" is a mistake in the question's field `param`, "internal" is ours."""

    id: int
    kind: Literal["invalid", "internal"]
    message: str
    param: str | None = None


Question = TraceSteps | LoadAdapter | LoadModel | Unload
Reply = Traced | Loaded | Unloaded | Refused
