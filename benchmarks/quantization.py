"""What quantized weights gain: products of a 0.5B decoder's shapes, and steps of the packaged models, in one process.

Weights of products lie in as many copies as no cache holds, as those of a model do. Each value is the least time of its
round, for machines that others work on too. One thread, so that none waits for another.
"""

import itertools
import random
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import torch

from app.engine.build import build_engine
from app.engine.engine import Engine
from app.engine.protocol import EncodeRequest, GenerateRequest, ModelSpec, Quantization, WorkerConfig
from app.engine.sampling_params import SamplingParams
from benchmarks.measure import Claim, Options, Report, alternate
from model.layers.bfloat16 import serving
from model.layers.packed import PackedWeight, ServedWeight, can_pack
from model.layers.quantized import QuantizedWeight

ZOO = Path(__file__).parents[1] / "model/zoo"
SHAPES = {"queries, keys, values": (1152, 896), "gate and up": (9728, 896), "down": (896, 4864)}
"""Output and input channels of Qwen2.5-0.5B's layers."""
ROWS = (1, 4, 16, 32, 128)
BATCHES = (1, 4, 16, 64)
PROMPT, OUTPUT = 24, 32
_COLD_BYTES = 150e6
_TRIES = 5


def run(options: Options) -> Report:
    """The ratio is how many times as fast the quantized one is: "ours" is the time without, "theirs" with."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        claims = [claim for what, shape in SHAPES.items() for claim in _products(what, shape, options)]
        claims += _models(options)
    finally:
        torch.set_num_threads(before)
    return Report("quantization", claims)


def _products(what: str, shape: tuple[int, int], options: Options) -> list[Claim]:
    numbers = torch.randn(shape)
    copies = int(_COLD_BYTES / numbers.numel()) + 1
    made: dict[str, Callable[[], ServedWeight]] = {
        "float32": lambda: PackedWeight(numbers),
        "int8": lambda: QuantizedWeight(numbers, torch.float32, "int8"),
        "int4": lambda: QuantizedWeight(numbers, torch.float32, "int4"),
    }
    if can_pack(torch.empty(0, dtype=torch.bfloat16)):
        packing = serving()
        made["bfloat16"] = lambda: packing.pack(numbers.bfloat16())
    weights = {name: [make() for _ in range(copies)] for name, make in made.items()}
    claims = []
    for rows in ROWS:
        runs = {name: partial(_multiply, several, rows) for name, several in weights.items()}
        claims += _compared(f"{what}, {rows} rows", "µs", alternate(runs, options.pairs))
    return claims


@torch.inference_mode()
def _multiply(weights: list[ServedWeight], rows: int) -> float:
    """Microseconds a product."""
    x = torch.randn(rows, weights[0].shape[1]).to(weights[0].dtype)
    least = float("inf")
    for _ in range(_TRIES):
        start = time.perf_counter()
        for weight in weights:
            weight(x)
        least = min(least, time.perf_counter() - start)
    return least / len(weights) * 1e6


def _models(options: Options) -> list[Claim]:
    kinds: dict[str, tuple[str, Quantization]] = {
        "float32": ("float32", "none"),
        "int8": ("float32", "int8"),
        "int4": ("float32", "int4"),
        "bfloat16": ("bfloat16", "none"),
    }
    engines = {name: _engine(*kind) for name, kind in kinds.items()}
    claims = []
    for model in ("writer", "translator", "minilm"):
        for batch in BATCHES:
            runs = {name: partial(_answer, engine, model, batch) for name, engine in engines.items()}
            claims += _compared(f"{model}, {batch} at once", "ms", alternate(runs, options.pairs))
    return claims


def _engine(dtype: str, quantization: Quantization) -> Engine:
    names = ("writer", "translator", "minilm")
    return build_engine(
        WorkerConfig(
            models=[ModelSpec(name, str(ZOO / name), quantization=quantization) for name in names],
            device="cpu",
            dtype=dtype,
            kv_cache_memory=100_000_000,
            prefix_cache=False,
            speculation=False,
            target_step_ms=0.0,
        )
    )


def _answer(engine: Engine, model: str, batch: int) -> float:
    """Milliseconds for texts that come together: of an encoder for their vectors, else for 32 tokens each."""
    source, least = random.Random(0), float("inf")
    for _ in range(_TRIES):
        for number in range(batch):
            ids = [source.randrange(10, 8000) for _ in range(PROMPT)]
            if model == "minilm":
                engine.add(EncodeRequest(id=number, model=model, ids=ids, output="embedding"))
            else:
                params = SamplingParams(max_tokens=OUTPUT, ignore_eos=True, seed=0)
                engine.add(GenerateRequest(id=number, model=model, prompt_ids=ids, params=params))
        start = time.perf_counter()
        while engine.has_work:
            engine.step()
        least = min(least, time.perf_counter() - start)
    return least * 1e3


def _compared(what: str, unit: str, seconds: Mapping[str, list[float]]) -> list[Claim]:
    pairs = itertools.product(("int8", "int4"), (name for name in ("float32", "bfloat16") if name in seconds))
    return [
        Claim(f"{what}: {plain} / {quantized}", unit, seconds[plain], seconds[quantized])
        for quantized, plain in pairs
    ]
