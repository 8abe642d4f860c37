"""Messages survive the wire however it cuts them, and nonsense is told from messages."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.engine.framing import (
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    ClientMessage,
    ProtocolError,
    WorkerMessage,
    client_messages,
    encode_frame,
    worker_messages,
)
from app.engine.protocol import (
    Abort,
    AdapterSpec,
    Encoded,
    EncodeRequest,
    Failed,
    Fatal,
    GenerateRequest,
    Heartbeat,
    Message,
    ModelInfo,
    ModelSpec,
    Ready,
    Report,
    Shutdown,
    StepOutputs,
    TokenLogprobs,
    Tokens,
    WorkerConfig,
)
from app.engine.questions import (
    LoadAdapter,
    Loaded,
    Refused,
    Traced,
    TracedStep,
    TraceSteps,
    Unload,
    Unloaded,
)
from app.engine.sampling_params import SamplingParams

TO_WORKER: list[ClientMessage] = [
    WorkerConfig(models=[ModelSpec("a", "/x")], adapters=[AdapterSpec("b", "a", "/y")], threads=2),
    GenerateRequest(
        id=2**40,
        model="a",
        prompt_ids=list(range(70_000)),
        params=SamplingParams(
            temperature=0.5,
            seed=-(2**63),
            logit_bias={3: -1.5},
            stop_token_ids=(1, 2),
            no_repeat_ngram_size=3,
            bad_words=((1, 2), (3, 4, 5)),
            logprobs=0,
        ),
        index=3,
        priority=-2,
    ),
    EncodeRequest(model="ä", ids=[1, 2], type_ids=[0, 1], output="mask", positions=[1], top_k=5),
    Abort([1, 2]),
    TraceSteps(2**40, 5),
    LoadAdapter(3, AdapterSpec("b", "a", "/ä")),
    Unload(4, "b"),
    Shutdown(),
]
INFO = ModelInfo(
    name="a",
    kind="decoder",
    max_model_len=5,
    vocab_size=9,
    parameters=1,
    bytes=4,
    load_seconds=0.5,
    dtype="float32",
    device="cpu",
)
TRACED = TracedStep(
    model="a",
    phase="prefill",
    stages=[("run", 1e6, 1e6 + 1e-6)],
    num_sequences=2,
    decoding_tokens=1,
    prompt_tokens=3,
    drafted_tokens=0,
    accepted_tokens=0,
    padding_tokens=1,
    preemptions=0,
    ids=[2**40, 1],
    lengths=[9, 3],
    computed=[1, 3],
)
TO_CLIENT: list[WorkerMessage] = [
    Traced(3, [TRACED]),
    Loaded(4, INFO),
    Unloaded(5),
    Refused(6, "invalid", "no", "path"),
    Ready(models=[INFO], device="cpu"),
    Fatal("checkpoint", "no such folder"),
    StepOutputs([], None, 1.5, [1, 2], [3]),
    StepOutputs(
        [
            Tokens(id=1, token_ids=[3], logprobs=[TokenLogprobs(-0.5, [(3, -0.5), (4, -1.0)])]),
            Encoded(id=2, shape=[2, 1], data=b"\0" * 8, queue_duration=0.25),
            Failed(3, "invalid", "no"),
            Tokens(id=4, token_ids=[], finish_reason="stop"),
        ],
        Report(model="a", phase="decode", duration_s=0.1, batch_size=1, batch_tokens=2, running={"a": 1}),
    ),
    Heartbeat(),
]


@given(st.lists(st.integers(1, 60_000), max_size=30), st.booleans())
def test_messages_survive_however_the_stream_is_cut(cuts: list[int], is_bytewise_at_first: bool) -> None:
    stream = b"".join(map(encode_frame, TO_WORKER))
    pieces = [stream[i : i + 1] for i in range(300)] if is_bytewise_at_first else [stream[:300]]
    start = 300
    for cut in cuts:
        pieces.append(stream[start : start + cut])
        start += cut
    pieces.append(stream[start:])
    frames = client_messages()
    assert [message for piece in pieces for message in frames.feed(piece)] == TO_WORKER


def test_the_workers_messages_survive() -> None:
    frames = worker_messages()
    assert list(frames.feed(b"".join(map(encode_frame, TO_CLIENT)))) == TO_CLIENT


def header(length: int) -> bytes:
    return length.to_bytes(HEADER_BYTES, "little")


@pytest.mark.parametrize(
    "stream",
    [
        header(MAX_FRAME_BYTES + 1),
        b"\xff\xff\xff\xff",
        header(0),
        header(3) + b"\xff\xff\xff",
        header(1) + b"\x90",
        encode_frame(Heartbeat()),
        encode_frame(Abort([1]))[:-1] + b"\xa1",
    ],
    ids=[
        "over the limit",
        "far over",
        "empty",
        "no msgpack",
        "no message",
        "of the other side",
        "wrong type",
    ],
)
def test_nonsense_is_refused_after_what_came_before_it(stream: bytes) -> None:
    frames = client_messages()
    messages = frames.feed(encode_frame(Shutdown()) + stream)
    assert next(messages) == Shutdown()
    with pytest.raises(ProtocolError):
        next(messages)


def test_parameters_out_of_range_do_not_get_through() -> None:
    frame = encode_frame(GenerateRequest(model="a", prompt_ids=[1], params=SamplingParams(temperature=2.0)))
    forged = frame.replace(b"\xcb\x40\x00", b"\xcb\x40\x10")  # 2.0 → 4.0
    assert forged != frame
    with pytest.raises(ProtocolError, match="temperature"):
        list(client_messages().feed(forged))


@pytest.mark.parametrize("message", [Abort([1]), Heartbeat()], ids=lambda message: type(message).__name__)
def test_a_message_over_the_limit_is_not_sent(message: Message, monkeypatch: pytest.MonkeyPatch) -> None:
    length = len(encode_frame(message)) - HEADER_BYTES
    monkeypatch.setattr("app.engine.framing.MAX_FRAME_BYTES", length)
    encode_frame(message)
    monkeypatch.setattr("app.engine.framing.MAX_FRAME_BYTES", length - 1)
    with pytest.raises(ProtocolError):
        encode_frame(message)
