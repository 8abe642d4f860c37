"""The messages between the API process and the engine process.

Tensors cross as raw little-endian float32 bytes beside their shape. Nothing here knows asyncio, processes or the
device.
"""

from typing import Literal

import msgspec

from app.engine.sampling_params import SamplingParams

MAX_CONSTRAINT_BYTES = 64 * 2**10

FinishReason = Literal["stop", "length", "abort", "error"]
EncodeOutput = Literal["embedding", "class", "token-class", "span", "mask", "next-sentence"]
ConstraintKind = Literal["json_schema", "regex", "choice", "grammar"]
Phase = Literal["encode", "prefill", "decode"]
Quantization = Literal["none", "int8", "int4", "fp8"]


class Message(msgspec.Struct, frozen=True, array_like=True, tag=True):
    """The base of everything that crosses; on the wire an array that starts with the class name."""


# ---- from the client to the worker


class ModelSpec(msgspec.Struct, frozen=True):
    """A checkpoint folder, the name that the engine knows its weights by (see `served_name`), its share of the
    device's time beside other models, and what its weights are made."""

    name: str
    path: str
    weight: float = 1.0
    quantization: Quantization = "none"


class AdapterSpec(msgspec.Struct, frozen=True):
    """An adapter folder, the name that the engine knows it by, and that of the model it sits on."""

    name: str
    base: str
    path: str


class WorkerConfig(Message, frozen=True, kw_only=True):
    """The first message: all that the engine process must know. Sizes in bytes or tokens; None is auto."""

    models: list[ModelSpec]
    adapters: list[AdapterSpec] = []
    device: str = "auto"
    dtype: str = "auto"
    kv_cache_dtype: str = "auto"
    kv_cache_memory: int | None = None
    kv_cache_page: int | None = None
    token_budget: int = 2048
    max_num_seqs: int = 256
    max_model_len: int | None = None
    prefix_cache: bool = True
    target_step_ms: float | None = None
    speculation: bool = True
    deterministic: bool = False
    cuda_graphs: bool = True
    threads: int | None = None
    niceness: int = 0
    log_format: Literal["text", "json"] = "text"


class Constraint(msgspec.Struct, frozen=True, array_like=True):
    """What a sequence's text must be: a JSON value that fits a schema (`text` is the schema), a match of a regular
    expression, one of several texts (`text` is a JSON list), or a sentence of a Lark grammar.

    `param` is the request's field, for messages. `opens_text`: nothing that its tokens are decoded with is before it.
    """

    kind: ConstraintKind
    text: str
    param: str
    opens_text: bool = False


class GenerateRequest(Message, frozen=True, kw_only=True):
    """One sequence to continue: a decoder's prompt, or an encoder-decoder's source.

    The client gives the `id`, and how many turns others have first (`behind`). `index` tells apart the sequences of one
    request that share a seed. `target_ids` are given as what is said first; with any, `prompt_logprobs` tells of them
    alone. `said` is what came behind, in an engine that is gone. `alone_until`: while it has at most so many decoder
    tokens, nothing else is in its steps.
    """

    id: int = 0
    model: str
    prompt_ids: list[int]
    params: SamplingParams
    index: int = 0
    priority: int = 0
    behind: int = 0
    constraint: Constraint | None = None
    target_ids: list[int] = []
    said: list[int] = []
    alone_until: int | None = None


class EncodeRequest(Message, frozen=True, kw_only=True):
    """One sequence to encode. `output`: "class" is one row of label logits, "token-class" one for each of `ids`, "span"
    a start and an end logit for each, "mask" the likeliest tokens (of `candidates`, if any) for those at `positions`.
    """

    id: int = 0
    model: str
    ids: list[int]
    type_ids: list[int] = []
    output: EncodeOutput
    positions: list[int] = []
    candidates: list[int] = []
    top_k: int = 0
    priority: int = 0
    behind: int = 0
    alone_until: int | None = None


class Abort(Message, frozen=True):
    """Nobody waits for these any more: free what they hold. Unknown and finished ids are no error."""

    ids: list[int]


class Shutdown(Message, frozen=True):
    """End at once; a worker whose socket closes does the same."""


# ---- from the worker to the client


class ModelInfo(msgspec.Struct, frozen=True, kw_only=True):
    """What one served model turned out to be. `bytes` counts its weights; adapters report their own. `dtype` is that of
    hidden states, `kv_cache_dtype` None where nothing is cached."""

    name: str
    kind: str
    max_model_len: int
    vocab_size: int
    parameters: int
    bytes: int
    load_seconds: float
    dtype: str
    device: str
    quantization: Quantization = "none"
    kv_cache_dtype: str | None = None
    num_blocks: int = 0
    block_size: int = 0
    base: str | None = None


class Ready(Message, frozen=True, kw_only=True):
    """All models are loaded; work may come."""

    models: list[ModelInfo]
    device: str


class Fatal(Message, frozen=True):
    """The engine cannot be built: "checkpoint" is the operator's to mend, "internal" ours."""

    kind: Literal["checkpoint", "internal"]
    message: str


class TokenLogprobs(msgspec.Struct, frozen=True, array_like=True):
    """Natural logs of the model's own probabilities, before penalties and truncation.

    `logprob` is the chosen token's; `top` are the likeliest as (token id, log-probability), best first.
    """

    logprob: float
    top: list[tuple[int, float]] = []


class Tokens(Message, frozen=True, kw_only=True):
    """New tokens of a sequence; the last message of each sequence carries the finish reason.

    `logprobs` runs beside `token_ids` where asked for. On a sequence's first message only are `queue_duration`, in
    seconds from arrival until first scheduled, `cached_tokens`, how many of its prompt were not computed anew, and
    where asked for `prompt_logprobs`, beside the targets, or else beside the prompt from its second token on.
    """

    id: int
    token_ids: list[int]
    logprobs: list[TokenLogprobs] | None = None
    prompt_logprobs: list[TokenLogprobs] | None = None
    finish_reason: FinishReason | None = None
    cached_tokens: int = 0
    queue_duration: float | None = None


class Hypothesis(msgspec.Struct, frozen=True, array_like=True):
    """One text that a beam search found, its end token left out, and the score by which it is ranked."""

    token_ids: list[int]
    score: float
    finish_reason: FinishReason
    logprobs: list[TokenLogprobs] | None = None


class Hypotheses(Message, frozen=True, kw_only=True):
    """The whole answer to a `GenerateRequest` with beams: `num_return_sequences` texts, best first."""

    id: int
    best: list[Hypothesis]
    cached_tokens: int = 0
    queue_duration: float | None = None


class Encoded(Message, frozen=True, kw_only=True):
    """The answer to an `EncodeRequest`: float32 of `shape`; for "mask", `ids` are the tokens, in order."""

    id: int
    shape: list[int]
    data: bytes
    ids: list[int] = []
    cached_tokens: int = 0
    queue_duration: float | None = None


class Failed(Message, frozen=True):
    """The end of a request that gets no answer: "invalid" is the client's mistake, "internal" ours.

    `param` is the request's field at fault, where it is known.
    """

    id: int
    kind: Literal["invalid", "internal"]
    message: str
    param: str | None = None


Answer = Tokens | Hypotheses | Encoded | Failed


class Report(Message, frozen=True, kw_only=True):
    """What one step did, and the state after it. Durations in seconds; dictionaries go by served model."""

    model: str
    phase: Phase
    duration_s: float
    batch_size: int
    batch_tokens: int
    padding_tokens: int = 0
    drafted_tokens: int = 0
    accepted_tokens: int = 0
    preemptions: int = 0
    running: dict[str, int] = {}
    waiting: dict[str, int] = {}
    kv_usage: dict[str, float] = {}


class StepOutputs(Message, frozen=True):
    """One engine step: what came out, and the report about it.

    It began at `started` (`time.monotonic()`, which both processes share). `begun` are the requests that were computed
    in it for the first time, `preempted` those that gave their blocks back for it.
    """

    outputs: list[Answer]
    report: Report | None = None
    started: float = 0.0
    begun: list[int] = []
    preempted: list[int] = []


class Heartbeat(Message, frozen=True):
    """The engine is idle and alive."""


Request = GenerateRequest | EncodeRequest


def served_name(name: str) -> str:
    """What clients call that which the engine knows by `name`: what is before a colon, behind which weights that come
    at run time have a number that no others had."""
    return name.partition(":")[0]
