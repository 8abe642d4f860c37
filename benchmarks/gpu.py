"""W1 to W4 in the engine on a CUDA device, without HTTP, beside what the device could do at most (`theirs`).

Never run by us: there was no device. Checkpoints have random weights and the shapes of docs/performance.md.
"""

import random
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from app.engine.build import build_engine
from app.engine.engine import Engine
from app.engine.protocol import EncodeRequest, GenerateRequest, ModelSpec, Quantization, WorkerConfig
from app.engine.sampling_params import SamplingParams
from benchmarks.measure import Claim, Options, Report
from benchmarks.roofline import Cost, Limits, decode_cost, encode_cost, measure_limits
from benchmarks.workloads import FIRST_TRACE_ID, mixed_lengths, w2_trace
from model.transformer import Transformer

PROMPT = NEW = 128
TARGET = 64
SOURCES = (10, 60)
W2_AT_ONCE = 16
MODES: dict[str, tuple[bool, Quantization]] = {
    "": (True, "none"),
    ", no graphs": (False, "none"),
    ", fp8": (True, "fp8"),
}


def run(options: Options) -> Report:
    """Raises RuntimeError where there is no device."""
    if not torch.cuda.is_available():
        raise RuntimeError("python -m benchmarks gpu: torch sees no CUDA device here")
    from benchmarks.peers.shapes import BERT, MARIAN, QWEN, T5, write

    device = torch.device("cuda")
    limits = measure_limits(device)
    claims = [
        Claim("W0 memory", "GB/s", [limits.bytes_per_s / 1e9]),
        Claim("W0 product bfloat16", "TFLOP/s", [limits.flops_per_s / 1e12]),
    ]
    with tempfile.TemporaryDirectory() as root:
        folders = {name: write(name, Path(root)) for name in (QWEN, MARIAN, T5, BERT)}
        for mode, (has_graphs, quantization) in MODES.items():
            with _engine(folders[QWEN], has_graphs, quantization) as engine:
                batches = (1, 8, 32, 256) if options.is_full else (1, 32)
                claims += [_w1(engine, n, limits, quantization, mode, options.pairs) for n in batches]
                claims.append(_w2(engine, limits, quantization, mode, options.pairs))
            for name in (MARIAN, T5):
                with _engine(folders[name], has_graphs, quantization) as engine:
                    claims += [
                        _w3(engine, name, n, limits, quantization, mode, options.pairs) for n in (1, 16, 64)
                    ]
        with _engine(folders[BERT], True, "none") as engine:
            claims.append(_w4(engine, limits, options.pairs))
    return Report("gpu", claims, {"device": torch.cuda.get_device_name(device)})


@contextmanager
def _engine(folder: Path, has_graphs: bool, quantization: Quantization) -> Iterator[Engine]:
    """Its memory is free again behind it."""
    config = WorkerConfig(
        models=[ModelSpec("m", str(folder), quantization=quantization)],
        device="cuda",
        dtype="bfloat16",
        kv_cache_memory=4 * 2**30,
        token_budget=8192,
        prefix_cache=False,
        speculation=False,
        cuda_graphs=has_graphs,
    )
    yield build_engine(config)
    torch.cuda.empty_cache()


def _w1(
    engine: Engine, batch: int, limits: Limits, quantization: Quantization, mode: str, rounds: int
) -> Claim:
    """Decoding alone: what one new token takes is the prompts' time."""
    prompts, model = _texts(engine, [PROMPT] * batch), _model(engine)
    ours = []
    for _ in range(rounds + 1):
        first = answer_all(engine, prompts, [1] * batch, batch)
        ours.append(batch * (NEW - 1) / (answer_all(engine, prompts, [NEW] * batch, batch) - first))
    cost = decode_cost(model, batch, PROMPT + NEW / 2, weight_bytes=_bytes(quantization))
    return Claim(
        f"W1 decode, {batch} texts{mode}", "tokens/s", ours[1:], [batch / cost.seconds(limits)] * rounds
    )


def _w2(engine: Engine, limits: Limits, quantization: Quantization, mode: str, rounds: int) -> Claim:
    model = _model(engine)
    trace = w2_trace(model.config.vocab_size, 64, (16, 512), (16, 256))
    prompts, outputs = [list(one.prompt) for one in trace], [one.num_output for one in trace]
    ours = [sum(outputs) / answer_all(engine, prompts, outputs, W2_AT_ONCE) for _ in range(rounds + 1)]
    least = w2_seconds(model, prompts, outputs, limits, _bytes(quantization))
    return Claim(f"W2 without HTTP{mode}", "tokens/s", ours[1:], [sum(outputs) / least] * rounds)


def w2_seconds(
    model: Transformer, prompts: list[list[int]], outputs: list[int], limits: Limits, weight_bytes: float
) -> float:
    """At least: prompts by the arithmetic of their products, and as few steps of W2_AT_ONCE as hold all outputs."""
    lengths = [len(prompt) for prompt in prompts]
    context = sum(n * (t + n / 2) for t, n in zip(lengths, outputs, strict=True)) / sum(outputs)
    step = decode_cost(model, W2_AT_ONCE, context, weight_bytes=weight_bytes).seconds(limits)
    reading = Cost(0, encode_cost(model, lengths).num_flops).seconds(limits)
    return reading + sum(outputs) / W2_AT_ONCE * step


def _w3(
    engine: Engine,
    name: str,
    batch: int,
    limits: Limits,
    quantization: Quantization,
    mode: str,
    rounds: int,
) -> Claim:
    model, source = _model(engine), random.Random(0)
    lengths = [source.randint(*SOURCES) for _ in range(64)]
    sources = _texts(engine, lengths)
    ours = [64 * TARGET / answer_all(engine, sources, [TARGET] * 64, batch) for _ in range(rounds + 1)]
    mean = sum(lengths) / 64
    step = decode_cost(model, batch, TARGET / 2, mean, _bytes(quantization)).seconds(limits)
    least = 64 / batch * TARGET * step + encode_cost(model, lengths, _bytes(quantization)).seconds(limits)
    return Claim(f"W3 {name}, {batch} at once{mode}", "tokens/s", ours[1:], [64 * TARGET / least] * rounds)


def _w4(engine: Engine, limits: Limits, rounds: int) -> Claim:
    lengths = mixed_lengths()
    texts, ours = _texts(engine, lengths), []
    for _ in range(rounds + 1):
        for number, ids in enumerate(texts):
            engine.add(EncodeRequest(id=number, model="m", ids=ids, output="class"))
        ours.append(len(texts) / _drain(engine))
    least = encode_cost(_model(engine), lengths).seconds(limits)
    return Claim("W4 BERT-base", "texts/s", ours[1:], [len(texts) / least] * rounds)


def answer_all(engine: Engine, prompts: list[list[int]], outputs: list[int], at_once: int) -> float:
    """Seconds until all prompts have their number of new tokens, with `at_once` of them in the engine."""
    waiting = [
        GenerateRequest(
            id=number,
            model="m",
            prompt_ids=ids,
            params=SamplingParams(max_tokens=count, ignore_eos=True, seed=0),
        )
        for number, (ids, count) in enumerate(zip(prompts, outputs, strict=True))
    ][::-1]
    start, running = time.perf_counter(), 0
    while waiting or running:
        while waiting and running < at_once:
            engine.add(waiting.pop())
            running += 1
        running -= sum(getattr(one, "finish_reason", None) is not None for one in engine.step().outputs)
    return time.perf_counter() - start


def _drain(engine: Engine) -> float:
    start = time.perf_counter()
    while engine.has_work:
        engine.step()
    return time.perf_counter() - start


def _texts(engine: Engine, lengths: list[int]) -> list[list[int]]:
    source, size = random.Random(0), _model(engine).config.vocab_size
    return [[source.randrange(FIRST_TRACE_ID, size - 8) for _ in range(length)] for length in lengths]


def _model(engine: Engine) -> Transformer:
    return engine._runners["m"].model


def _bytes(quantization: Quantization) -> float:
    """Of a weight."""
    return 1.0 if quantization == "fp8" else 2.0
