"""Servers that are asked over HTTP: other engines' and ours, on the same checkpoints."""

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self
from urllib.request import urlopen

import psutil

from benchmarks.line_process import ROOT
from benchmarks.peers.process import VLLM_BOUNDS, Peers
from benchmarks.peers.shapes import MARIAN, QWEN
from benchmarks.service import AS_IF_NEW, Service, free_port

QUARTET = "model"
"""The name under which ours serves what it is given."""


class PeerServer:
    """A context manager, entered once /health says 200; `model` is what requests name."""

    def __init__(
        self, command: Sequence[str], model: str = "", environment: Mapping[str, str] | None = None
    ) -> None:
        """The port is put behind the command."""
        self.port, self.model = free_port(), model
        self._command = [*command, str(self.port)]
        self._environment = {"PATH": "/usr/bin:/bin", **(environment or {})}
        self.seconds_to_ready = 0.0

    def __enter__(self) -> Self:
        start = time.perf_counter()
        self._process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=self._environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while not _answers(self.port):
            if self._process.poll() is not None:
                raise RuntimeError(f"{self._command[0]} did not start")
            time.sleep(0.01)
        self.seconds_to_ready = time.perf_counter() - start
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            for child in psutil.Process(self._process.pid).children(recursive=True):
                child.kill()
            self._process.kill()
            self._process.wait()


def vllm(peers: Peers) -> PeerServer:
    """Its OpenAI-style server, with the limits that suit the trace of W2."""
    model = str(peers.checkpoint(QWEN))
    command = [
        str(peers.python("vllm")), "-m", "vllm.entrypoints.openai.api_server", "--model", model,
        "--dtype", "bfloat16", "--max-model-len", "1024", "--max-num-seqs", "32",
        "--max-num-batched-tokens", "2048", "--no-enable-prefix-caching", "--port",
    ]  # fmt: skip
    return PeerServer(command, model, VLLM_BOUNDS)


def llama(peers: Peers, precision: str) -> PeerServer:
    """llama.cpp's server, for the decoder in one of its precisions."""
    command = [str(peers.llama("llama-server")), "-m", str(peers.gguf(precision)), "-t", "2", "-c", "4096"]
    return PeerServer([*command, "--port"])


def translation_loop(peers: Peers) -> PeerServer:
    """See `engines.translation_loop`."""
    command = [str(peers.python("libraries")), "-m", "benchmarks.peers.engines.translation_loop"]
    return PeerServer([*command, str(peers.made("ctranslate2", MARIAN)), "int8"])


def decoder(peers: Peers, precision: str, *more: str) -> Service:
    """Ours; `precision`: bf16, int8 or int4. Without guesses and the prefix cache: the work is random, and repeated."""
    given = [] if precision == "bf16" else ["--quantization", precision]
    checkpoint = ["--model", f"{QUARTET}={peers.checkpoint(QWEN)}", "--dtype", "bfloat16"]
    return Service([*checkpoint, *given, *AS_IF_NEW, "--no-speculation", *more])


def translator(peers: Peers) -> Service:
    """Ours, as in the W3 rows without HTTP."""
    checkpoint = ["--model", f"{QUARTET}={peers.checkpoint(MARIAN)}", "--dtype", "float32"]
    return Service([*checkpoint, "--quantization", "int8", *AS_IF_NEW, "--no-speculation"])


def _answers(port: int) -> bool:
    try:
        with urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False
