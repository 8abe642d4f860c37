"""W2: the trace over HTTP, streamed, 16 requests at a time; and how long a server takes until it answers."""

import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from statistics import median
from types import TracebackType
from urllib.request import urlopen

from benchmarks.connection import Body, Reply, send_all
from benchmarks.line_process import ROOT
from benchmarks.measure import Claim
from benchmarks.peers.process import Peers
from benchmarks.peers.shapes import QWEN
from benchmarks.service import AS_IF_NEW, Service, free_port
from benchmarks.workloads import TraceRequest, w2_trace

NUM_CLIENTS = 16
VOCABULARY = 150_000
WARM = 4
QUARTET = "model"
Measured = dict[str, float]


class VllmServer:
    """vLLM's OpenAI-style server, with the limits that suit the trace."""

    def __init__(self, peers: Peers) -> None:
        self.port, self.model = free_port(), str(peers.checkpoint(QWEN))
        self._command = [
            str(peers.python("vllm")), "-m", "vllm.entrypoints.openai.api_server", "--model", self.model,
            "--dtype", "bfloat16", "--max-model-len", "1024", "--max-num-seqs", "32",
            "--max-num-batched-tokens", "2048", "--no-enable-prefix-caching", "--port", str(self.port),
        ]  # fmt: skip
        self.seconds_to_ready = 0.0

    def __enter__(self) -> "VllmServer":
        start = time.perf_counter()
        environment = {
            "VLLM_CPU_KVCACHE_SPACE": "2",
            "VLLM_CPU_OMP_THREADS_BIND": "0-1",
            "PATH": "/usr/bin:/bin",
        }
        self._process = subprocess.Popen(
            self._command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while not _answers(self.port):
            if self._process.poll() is not None:
                raise RuntimeError("vLLM did not start")
            time.sleep(0.1)
        self.seconds_to_ready = time.perf_counter() - start
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def quartet(peers: Peers, precision: str) -> Service:
    """`precision`: bf16, int8 or int4."""
    given = [] if precision == "bf16" else ["--quantization", precision]
    return Service(
        [
            "--model",
            f"{QUARTET}={peers.checkpoint(QWEN)}",
            "--dtype",
            "bfloat16",
            *given,
            *AS_IF_NEW,
            "--no-speculation",
        ]
    )


def replay(port: int, model: str, trace: Sequence[TraceRequest]) -> Measured:
    """Output tokens a second; the median first token in seconds; the 99th of 100 gaps between tokens in seconds."""
    bodies: list[Body] = [
        {
            "model": model,
            "prompt": list(one.prompt),
            "max_tokens": one.num_output,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        for one in trace
    ]
    replies, seconds = send_all(port, "/v1/completions", bodies, NUM_CLIENTS)
    counted = [_usage(reply) for reply in replies]
    if counted != [one.num_output for one in trace]:
        raise RuntimeError("another number of tokens than asked for")
    gaps = sorted(
        after - before
        for reply in replies
        for before, after in zip(reply.arrivals, reply.arrivals[1:], strict=False)
    )
    return {
        "tokens/s": sum(counted) / seconds,
        "first": median(reply.arrivals[0] - reply.start for reply in replies),
        "gap": gaps[int(len(gaps) * 0.99)],
    }


def _usage(reply: Reply) -> int:
    events = reply.events()
    counted: int = next(
        event["usage"]["completion_tokens"] for event in reversed(events) if event.get("usage")
    )
    return counted


def run(peers: Peers, rounds: int, precisions: Sequence[str]) -> list[Claim]:
    """Against vLLM in bfloat16: the trace of 64, `rounds` times by turns, after a short one for warming up."""
    trace = w2_trace(VOCABULARY, 64, prompt=(16, 512), output=(16, 256))
    warm = w2_trace(VOCABULARY, WARM, prompt=(16, 512), output=(16, 32), seed=1)
    found: dict[str, list[Measured]] = {}
    starts = {}
    with ExitStack() as stack:
        theirs = stack.enter_context(VllmServer(peers))
        starts["vLLM"] = theirs.seconds_to_ready
        runs: dict[str, Callable[[Sequence[TraceRequest]], Measured]] = {
            "vLLM": partial(replay, theirs.port, theirs.model)
        }
        for precision in precisions:
            ours = stack.enter_context(quartet(peers, precision))
            starts[precision] = ours.seconds_to_ready
            runs[precision] = partial(replay, ours.port, QUARTET)
        for measure in runs.values():
            measure(warm)
        for index in range(rounds):
            for name in list(runs) if index % 2 == 0 else reversed(list(runs)):
                found.setdefault(name, []).append(runs[name](trace))
    claims = [
        claim for precision in precisions for claim in _claims(precision, found[precision], found["vLLM"])
    ]
    claims += [Claim(f"start to ready, {name}", "s", [starts[name]], target=5.0) for name in precisions]
    return [*claims, Claim("start to ready, vLLM", "s", [starts["vLLM"]])]


def _claims(precision: str, ours: Sequence[Measured], theirs: Sequence[Measured]) -> list[Claim]:
    """Waiting times turned into speeds, so that more is better in every row."""

    def claim(what: str, name: str, unit: str, must: float | None, power: int) -> Claim:
        mine, others = ([one[what] ** power for one in side] for side in (ours, theirs))
        return Claim(f"W2 over HTTP, {precision} / vLLM bf16: {name}", unit, mine, others, must)

    return [
        claim("tokens/s", "output", "tokens/s", {"bf16": 1.15, "int8": 1.8}.get(precision), 1),
        claim("first", "first token, median (turned over)", "1/s", 1.0, -1),
        claim("gap", "between tokens, 99 of 100 (turned over)", "1/s", 2.0, -1),
    ]


def _answers(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
