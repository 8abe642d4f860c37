"""W1, W3 and W4: engines without HTTP, by turns, on the same ids."""

import json
import random
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Literal

from benchmarks.measure import Claim, alternate
from benchmarks.peers.process import Engine, Peers
from benchmarks.peers.shapes import BERT, MARIAN, QWEN, T5, vocabulary
from benchmarks.workloads import mixed_lengths

PROMPT = 128
NEW = 128
SOURCES = 64
TARGET = 64
FIRST_ID = 300


Measure = Callable[[Peers, int, float], Claim]
"""With how many rounds, and what the ratio is held to."""


@dataclass(frozen=True)
class Row:
    """One line of docs/performance.md: `must` bounds the ratio to the peer from below, `aim` is what is hoped for."""

    name: str
    must: float
    aim: float
    measure: Measure


@dataclass(frozen=True)
class Decoding:
    """W1: `batch` prompts of 128 ids and 128 new tokens, of which the first belongs to the prompt's time."""

    batch: int
    seed: int

    def prompts(self, size: int) -> list[list[int]]:
        source = random.Random(self.seed)
        return [[source.randrange(FIRST_ID, size) for _ in range(PROMPT)] for _ in range(self.batch)]

    def speed(self, engine: Engine, size: int, phase: Literal["prefill", "decode"]) -> float:
        """Tokens a second."""
        prompts = self.prompts(size)
        prefill = engine.generate(prompts, 1, self.batch)
        if phase == "prefill":
            return self.batch * PROMPT / prefill
        return self.batch * (NEW - 1) / (engine.generate(prompts, NEW, self.batch) - prefill)


def decoding(
    name: str, phase: Literal["prefill", "decode"], batch: int, ours: tuple[str, str], peer: str
) -> Measure:
    """`ours`: dtype and quantization. `peer`: "vllm", or llama.cpp's precision."""
    work = Decoding(batch, seed=batch)

    def measure(peers: Peers, rounds: int, must: float) -> Claim:
        size = vocabulary(peers.checkpoint(QWEN))
        with ExitStack() as stack:
            engine = stack.enter_context(peers.quartet(QWEN, *ours))
            if peer == "vllm":
                other = stack.enter_context(peers.vllm())

                def theirs() -> float:
                    return work.speed(other, size, phase)
            else:
                path = peers.gguf(peer)

                def theirs() -> float:
                    return llama_speed(peers, str(path), batch, phase)

            values = alternate({"ours": lambda: work.speed(engine, size, phase), "theirs": theirs}, rounds)
        return Claim(name, "tokens/s", values["ours"], values["theirs"], must)

    return measure


def llama_speed(peers: Peers, model: str, batch: int, phase: Literal["prefill", "decode"]) -> float:
    """What llama-batched-bench says, in a process of its own, which reads the file from the page cache."""
    command = [
        str(peers.llama("llama-batched-bench")), "-m", model, "-c", str(batch * (PROMPT + NEW) + 256), "-b", "2048",
        "-ub", "512", "-npp", str(PROMPT), "-ntg", str(NEW), "-npl", str(batch), "-t", "2", "-tb", "2",
        "--output-format", "jsonl",
    ]  # fmt: skip
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    line = next(line for line in run.stdout.splitlines() if line.startswith("{"))
    return float(json.loads(line)["speed_pp" if phase == "prefill" else "speed_tg"])


def translating(name: str, model: str, batch: int, beams: int) -> Measure:
    """W3: 64 sources of 10 to 60 ids, shortest first, in batches, 64 tokens each; eight of them one by one."""

    def measure(peers: Peers, rounds: int, must: float) -> Claim:
        size = vocabulary(peers.checkpoint(model))
        source = random.Random(3)
        end = 0 if model == MARIAN else 1
        sources = sorted(
            (
                [source.randrange(FIRST_ID, size - 10) for _ in range(source.randint(10, 60))] + [end]
                for _ in range(SOURCES)
            ),
            key=len,
        )
        wanted = sources[::8] if batch == 1 else sources

        def speed(engine: Engine) -> float:
            return len(wanted) * TARGET / engine.generate(wanted, TARGET, batch, beams)

        with peers.quartet(model, "float32", "int8") as ours, peers.ctranslate2(model, "int8") as theirs:
            values = alternate({"ours": lambda: speed(ours), "theirs": lambda: speed(theirs)}, rounds)
        return Claim(name, "tokens/s", values["ours"], values["theirs"], must)

    return measure


def encoding(
    name: str, model: str, ours: tuple[str, str], peer: Literal["openvino", "onnxruntime"]
) -> Measure:
    """W4: 512 texts of log-normal lengths; the peers get them sorted, in batches of 2,048 ids with padding."""

    def measure(peers: Peers, rounds: int, must: float) -> Claim:
        source = random.Random(1)
        texts = [[source.randrange(2000, 30_000) for _ in range(length)] for length in mixed_lengths()]

        def speed(engine: Engine) -> float:
            return len(texts) / engine.encode(texts)

        other = peers.openvino(model) if peer == "openvino" else peers.onnxruntime(model)
        with peers.quartet(model, *ours) as engine, other as theirs:
            values = alternate({"ours": lambda: speed(engine), "theirs": lambda: speed(theirs)}, rounds)
        return Claim(name, "texts/s", values["ours"], values["theirs"], must)

    return measure


def _decoding(
    phase: Literal["prefill", "decode"], batch: int, ours: tuple[str, str], peer: str, must: float, aim: float
) -> Row:
    precision = ours[1] if ours[1] != "none" else "bf16"
    against = "vLLM bf16" if peer == "vllm" else f"llama.cpp {peer}"
    name = f"W1 {phase}, batch {batch}, {precision} / {against}"
    return Row(name, must, aim, decoding(name, phase, batch, ours, peer))


def _translating(model: str, batch: int, beams: int, must: float, aim: float) -> Row:
    how = "greedy" if beams == 1 else f"beam {beams}"
    name = f"W3 {model} {how}, batch {batch}, int8 / CTranslate2 int8"
    return Row(name, must, aim, translating(name, model, batch, beams))


def _encoding(
    model: str,
    ours: tuple[str, str],
    peer: Literal["openvino", "onnxruntime"],
    must: float,
    aim: float,
) -> Row:
    precision = ours[1] if ours[1] != "none" else "bf16"
    against = "OpenVINO bf16" if peer == "openvino" else "onnxruntime int8"
    name = f"W4 {model}, {precision} / {against}"
    return Row(name, must, aim, encoding(name, model, ours, peer))


BF16, INT8, INT4 = ("bfloat16", "none"), ("bfloat16", "int8"), ("bfloat16", "int4")
ROWS = [
    _decoding("decode", 1, INT8, "Q8_0", 1.0, 1.2),
    _decoding("decode", 1, INT4, "Q4_0", 0.9, 1.2),
    _decoding("decode", 1, BF16, "BF16", 0.0, 1.0),
    _decoding("decode", 32, BF16, "vllm", 1.0, 1.2),
    _decoding("decode", 32, INT8, "vllm", 1.6, 2.0),
    _decoding("prefill", 8, BF16, "vllm", 0.95, 1.05),
    _decoding("prefill", 8, INT8, "vllm", 1.3, 1.6),
    *(
        _translating(model, batch, 1, must, aim)
        for model in (MARIAN, T5)
        for batch, must, aim in ((1, 1.0, 1.5), (16, 1.2, 2.0), (64, 1.5, 2.5))
    ),
    _translating(MARIAN, 16, 4, 1.2, 2.0),
    _encoding("minilm", BF16, "openvino", 1.0, 1.15),
    _encoding("minilm", INT8, "openvino", 1.2, 1.6),
    _encoding(BERT, BF16, "openvino", 1.0, 1.08),
    _encoding(BERT, INT8, "onnxruntime", 1.2, 1.6),
]
