"""The worker's loop with a fake engine in a thread, and the whole process with a real one."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from app.engine.admission import RequestError
from app.engine.flight import closing_fd, make_flight
from app.engine.framing import ProtocolError, WorkerMessage, encode_frame, worker_messages
from app.engine.memory import CACHED_PRODUCTS
from app.engine.protocol import (
    Abort,
    Answer,
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
    Shutdown,
    StepOutputs,
    Tokens,
    WorkerConfig,
)
from app.engine.questions import Question, Reply, Traced, TraceSteps
from app.engine.sampling_params import SamplingParams
from app.engine.worker import IDLE_BEATS, Channel, Disconnected, run, serve
from model.config import CheckpointError

ROOT = Path(__file__).parents[2]


class FakeEngine:
    """Counts to `max_tokens` for each sequence, a token a step; the model's name may ask for trouble."""

    def __init__(self) -> None:
        self.infos: list[ModelInfo] = []
        self.sequences: dict[int, list[int]] = {}
        self.aborted: list[int] = []
        self.replying: list[Reply] = []

    @property
    def has_work(self) -> bool:
        return bool(self.sequences)

    def when_ready(self, wake: Callable[[], object]) -> None:
        self.wake = wake

    def add(self, request: GenerateRequest | EncodeRequest) -> None:
        if request.model == "unknown":
            raise RequestError("unknown model")
        if request.model == "bug":
            raise KeyError("bug")
        if request.model == "step-bug":
            self.sequences[request.id] = [-1]
        elif isinstance(request, EncodeRequest):
            self.sequences[request.id] = [0, len(request.ids)]
        else:
            self.sequences[request.id] = [0, request.params.max_tokens]

    def abort(self, ids: Iterable[int]) -> None:
        for one in ids:
            self.aborted.append(one)
            self.sequences.pop(one, None)

    def ask(self, question: Question) -> None:
        self.replying.append(Traced(question.id, []))

    def replies(self) -> list[Reply]:
        replies, self.replying = self.replying, []
        return replies

    def step(self) -> StepOutputs:
        outputs: list[Answer] = []
        for one, state in list(self.sequences.items()):
            if state == [-1]:
                raise RuntimeError("a bug in a step")
            token_id, state[0] = state[0], state[0] + 1
            is_last = state[0] == state[1]
            outputs.append(Tokens(id=one, token_ids=[token_id], finish_reason="length" if is_last else None))
            if is_last:
                del self.sequences[one]
        return StepOutputs(outputs)


class Peer:
    """The client's end of the socket, blocking."""

    def __init__(self, sock: socket.socket) -> None:
        sock.settimeout(60.0)
        self.sock = sock
        self._frames = worker_messages()
        self._waiting: list[WorkerMessage] = []

    def send(self, *messages: Message) -> None:
        self.sock.sendall(b"".join(map(encode_frame, messages)))

    def receive(self) -> WorkerMessage:
        """The next message that is not a heartbeat."""
        while True:
            while self._waiting:
                message = self._waiting.pop(0)
                if not isinstance(message, Heartbeat):
                    return message
            data = self.sock.recv(65536)
            if not data:
                raise EOFError
            self._waiting += self._frames.feed(data)

    def outputs(self) -> Iterator[Answer]:
        while True:
            message = self.receive()
            assert isinstance(message, StepOutputs)
            yield from message.outputs


@contextmanager
def in_thread(work: Callable[[socket.socket], object]) -> Iterator[tuple[Peer, list[object]]]:
    """The peer of a worker's socket, and what the worker returned or raised once the block is left."""
    ours, theirs = socket.socketpair()
    ends: list[object] = []

    def target() -> None:
        with theirs:
            try:
                ends.append(work(theirs))
            except Exception as error:
                ends.append(error)

    thread = threading.Thread(target=target)
    thread.start()
    with ours:
        yield Peer(ours), ends
    thread.join(60.0)
    assert not thread.is_alive()


def generate(one: int, model: str = "m", max_tokens: int = 3) -> GenerateRequest:
    return GenerateRequest(id=one, model=model, prompt_ids=[1], params=SamplingParams(max_tokens=max_tokens))


def test_sequences_that_arrive_at_any_time_run_together() -> None:
    engine = FakeEngine()
    with in_thread(lambda sock: serve(Channel(sock), engine)) as (peer, ends):
        peer.send(generate(1, max_tokens=50_000))
        outputs = peer.outputs()
        assert next(outputs) == Tokens(id=1, token_ids=[0])
        peer.send(generate(2, max_tokens=2))
        of_second = [next(output for output in outputs if output.id == 2) for _ in range(2)]
        assert of_second[1] == Tokens(id=2, token_ids=[1], finish_reason="length")
        peer.send(Abort([1, 77]), generate(3, max_tokens=1))
        next(output for output in outputs if output.id == 3)
        assert not engine.has_work
        assert engine.aborted == [1, 77]
        peer.send(Shutdown())
    assert ends == [None]


def test_a_request_that_is_not_taken_fails_alone() -> None:
    with in_thread(lambda sock: serve(Channel(sock), FakeEngine())) as (peer, ends):
        peer.send(generate(1, "unknown"), generate(2, "bug"), generate(3, max_tokens=1))
        outputs = peer.outputs()
        assert next(outputs) == Failed(1, "invalid", "unknown model")
        failed = next(outputs)
        assert isinstance(failed, Failed)
        assert (failed.id, failed.kind) == (2, "internal")
        assert next(outputs).id == 3
    assert [type(end) for end in ends] == [Disconnected]


def test_questions_are_answered_while_idle_and_between_steps() -> None:
    with in_thread(lambda sock: serve(Channel(sock), FakeEngine())) as (peer, _):
        peer.send(TraceSteps(1, 10))
        assert peer.receive() == Traced(1, [])
        peer.send(generate(1, max_tokens=50_000), TraceSteps(2, 10))
        replies = (message for message in iter(peer.receive, None) if isinstance(message, Traced))
        assert next(replies) == Traced(2, [])


def test_an_idle_worker_sends_heartbeats() -> None:
    with in_thread(lambda sock: serve(Channel(sock), FakeEngine(), heartbeat=0.01)) as (peer, _):
        beats = encode_frame(Heartbeat()) * 3
        received = b""
        while len(received) < len(beats):
            received += peer.sock.recv(len(beats) - len(received))
        assert received == beats


def test_an_idle_worker_gives_memory_back_once_until_there_is_work_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given_back: list[None] = []

    def hear_beats(peer: Peer, count: int) -> None:
        missing = count * len(encode_frame(Heartbeat()))
        while missing:
            missing -= len(peer.sock.recv(missing))

    monkeypatch.setattr("app.engine.worker.release_free", lambda: given_back.append(None))
    with in_thread(lambda sock: serve(Channel(sock), FakeEngine(), heartbeat=0.001)) as (peer, _):
        hear_beats(peer, 3 * IDLE_BEATS)
        assert len(given_back) == 1
        peer.send(generate(1, max_tokens=1))
        assert next(peer.outputs()).id == 1
        hear_beats(peer, 3 * IDLE_BEATS)
        assert len(given_back) == 2


def test_an_answer_too_large_for_a_frame_fails_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class LargeAnswers(FakeEngine):
        def step(self) -> StepOutputs:
            sizes, self.sequences = {one: state[1] for one, state in self.sequences.items()}, {}
            return StepOutputs([Encoded(id=one, shape=[], data=bytes(n)) for one, n in sizes.items()])

    monkeypatch.setattr("app.engine.framing.MAX_FRAME_BYTES", 1000)
    with in_thread(lambda sock: serve(Channel(sock), LargeAnswers())) as (peer, _):
        peer.send(*(generate(one, max_tokens=size) for one, size in enumerate((10, 2000, 900, 300))))
        outputs = peer.outputs()
        kinds = {output.id: type(output) for output in (next(outputs) for _ in range(4))}
    assert kinds == {0: Encoded, 1: Failed, 2: Encoded, 3: Encoded}


def test_a_client_that_does_not_read_holds_the_engine_and_loses_nothing() -> None:
    num_tokens = 100_000
    with in_thread(lambda sock: serve(Channel(sock), FakeEngine())) as (peer, _):
        peer.send(generate(1, max_tokens=num_tokens))
        peer.send(generate(2, max_tokens=1))  # is read only once there is room to answer
        outputs = peer.outputs()
        of_first: list[int] = []
        while len(of_first) < num_tokens:
            output = next(outputs)
            if output.id == 1:
                assert isinstance(output, Tokens)
                of_first += output.token_ids
    assert of_first == list(range(num_tokens))


def config() -> WorkerConfig:
    return WorkerConfig(models=[ModelSpec("m", "/nowhere")])


def life(build: Callable[[WorkerConfig], FakeEngine]) -> Callable[[socket.socket], int]:
    return lambda sock: run(sock, build)


def test_a_worker_builds_its_engine_and_serves(caplog: pytest.LogCaptureFixture) -> None:
    built: list[WorkerConfig] = []

    def build(config: WorkerConfig) -> FakeEngine:
        built.append(config)
        return FakeEngine()

    with in_thread(life(build)) as (peer, ends):
        peer.send(config())
        assert isinstance(peer.receive(), Ready)
        peer.send(generate(1, max_tokens=1))
        assert next(peer.outputs()).id == 1
        peer.send(Shutdown())
        with pytest.raises(EOFError):
            peer.receive()
    assert built == [config()]
    assert ends == [0]


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [(CheckpointError("no config.json"), "checkpoint", 2), (MemoryError("too much"), "internal", 1)],
)
def test_an_engine_that_cannot_be_built_is_told(error: Exception, kind: str, code: int) -> None:
    def build(config: WorkerConfig) -> FakeEngine:
        raise error

    with in_thread(life(build)) as (peer, ends):
        peer.send(config())
        fatal = peer.receive()
        assert isinstance(fatal, Fatal)
        assert fatal.kind == kind
        assert str(error) in fatal.message
    assert ends == [code]


@pytest.mark.parametrize(
    "sent",
    [
        [generate(1)],
        [config(), config()],
        [config(), generate(1, "step-bug")],
    ],
    ids=["no configuration first", "two configurations", "a bug in a step"],
)
def test_a_worker_whose_state_is_unknown_ends(sent: list[Message]) -> None:
    with in_thread(life(lambda _: FakeEngine())) as (peer, ends):
        peer.send(sent[0])
        if isinstance(sent[0], WorkerConfig):
            assert isinstance(peer.receive(), Ready)
            peer.send(*sent[1:])
        with pytest.raises(EOFError):
            peer.receive()
    assert ends == [1]


def test_nonsense_on_the_socket_ends_the_loop() -> None:
    with in_thread(lambda sock: serve(Channel(sock), FakeEngine())) as (peer, ends):
        peer.sock.sendall(b"\xff" * 8)
        with pytest.raises(EOFError):
            peer.receive()
    assert [type(end) for end in ends] == [ProtocolError]


@contextmanager
def worker_process(*models: ModelSpec, niceness: int = 0) -> Iterator[tuple[Peer, "subprocess.Popen[bytes]"]]:
    ours, theirs = socket.socketpair()
    flight = make_flight()
    with theirs, closing_fd(flight):
        fds = ["--fd", str(theirs.fileno()), "--flight", str(flight)]
        command = [sys.executable, "-m", "app.engine.worker", *fds]
        process = subprocess.Popen(command, pass_fds=[theirs.fileno(), flight], cwd=ROOT)
    with process:
        try:
            with ours:
                peer = Peer(ours)
                peer.send(WorkerConfig(models=list(models), device="cpu", threads=1, niceness=niceness))
                yield peer, process
            process.wait(60.0)
        finally:
            process.kill()


def test_the_process_ignores_signals_and_ends_with_its_socket() -> None:
    with worker_process() as (peer, process):
        assert isinstance(peer.receive(), Ready)
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(process.pid, number)
        peer.send(generate(1))
        assert isinstance(next(peer.outputs()), Failed)
    assert process.returncode == 0


def test_the_process_and_its_threads_stand_back_as_far_as_they_are_told() -> None:
    own = os.nice(0)
    with worker_process(niceness=3) as (peer, process):
        assert isinstance(peer.receive(), Ready)
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == min(19, own + 3)


def test_the_process_bounds_the_caches_of_compiled_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN reads these names when it first computes; what somebody has set stands."""
    code = (
        "import ctypes; from app.engine.memory import bound_caches; bound_caches(); c = ctypes.CDLL(None).getenv;"
        "c.restype = ctypes.c_char_p; print(c(b'LRU_CACHE_CAPACITY'), c(b'ONEDNN_PRIMITIVE_CACHE_CAPACITY'))"
    )
    monkeypatch.delenv("LRU_CACHE_CAPACITY", raising=False)
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "7")
    told = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True)
    assert told.stdout.decode().split() == [str(f"{CACHED_PRODUCTS}".encode()), str(b"7")]


def test_the_process_tells_which_folder_is_missing(tmp_path: Path) -> None:
    with worker_process(ModelSpec("m", str(tmp_path / "missing"))) as (peer, process):
        fatal = peer.receive()
        assert isinstance(fatal, Fatal)
        assert fatal.kind == "checkpoint"
        assert "missing" in fatal.message
    assert process.returncode == 2
