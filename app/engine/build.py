"""From a worker's configuration to an engine: devices, dtypes, weights, adapters, the arena."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from app.engine.adapters import Adapters
from app.engine.admission import Served
from app.engine.block_manager import BlockManager
from app.engine.compiler import Compiler
from app.engine.determinism import check_deterministic
from app.engine.engine import Engine
from app.engine.flight import FlightRecorder
from app.engine.kv_cache import Arena, CacheShape, plan_arena
from app.engine.memory import available_bytes
from app.engine.pace import Pace
from app.engine.protocol import ModelInfo, WorkerConfig
from app.engine.runner import Runner
from app.engine.scheduler import Scheduler
from model.config import CheckpointError
from model.loading import load_model, stored_dtype
from model.pooling import read_pooling
from model.transformer import Transformer, parameter_bytes

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
CPU_CACHE_BYTES = 2 * 2**30
CPU_STEP_MS = 100.0


@dataclass(frozen=True)
class _Loaded:
    model: Transformer
    folder: Path
    seconds: float


def build_engine(
    config: WorkerConfig,
    clock: Callable[[], float] = time.monotonic,
    recorder: FlightRecorder | None = None,
) -> Engine:
    """Loads every model and adapter. Raises CheckpointError for a folder that cannot be served.

    `clock`, in seconds, tells the engine how long its steps take, and the client, on `time.monotonic()`, when they
    began; in `recorder` it writes down what it is at.
    """
    device = choose_device(config.device)
    loaded: dict[str, _Loaded] = {}
    for spec in config.models:
        started, folder = time.perf_counter(), Path(spec.path)
        model = load_model(folder, choose_dtype(config.dtype, device, stored_dtype(folder)), device)
        model.pack()
        loaded[spec.name] = _Loaded(model, folder, time.perf_counter() - started)
    served = {name: _served(name, None, one.model, config.max_model_len) for name, one in loaded.items()}
    infos = {name: _info(name, served[name], one, device) for name, one in loaded.items()}
    if config.deterministic:
        for name, one in loaded.items():
            check_deterministic(name, one.model)
    models = {name: one.model for name, one in loaded.items()}
    adapters = Adapters(models, served, infos, config.deterministic)
    for adapter in config.adapters:
        adapters.add(adapter)
    runners, arena = _runners(loaded, device, config.kv_cache_memory, config.deterministic)
    for name, info in infos.items():
        infos[name] = _with_blocks(info, runners, arena)
    sizes = {name: runner.block_size for name, runner in runners.items()}
    blocks = BlockManager(arena.num_pages)
    scheduler = Scheduler(sizes, blocks, config.token_budget, config.max_num_seqs, config.prefix_cache)
    for spec in config.models:
        scheduler.lanes.set_weight(spec.name, spec.weight)
    pace = _pace(config.target_step_ms, device)
    compiler = Compiler({name: (one.folder, one.model.config.vocab_size) for name, one in loaded.items()})
    return Engine(
        *(runners, served, infos, adapters, arena, scheduler, compiler, pace, config.speculation, clock),
        recorder,
    )


def choose_device(wanted: str) -> torch.device:
    """`auto` takes CUDA where there is a device. Raises CheckpointError for one that is not there."""
    has_cuda = torch.cuda.is_available()
    if wanted == "auto":
        return torch.device("cuda" if has_cuda else "cpu")
    if wanted.startswith("cuda") and not has_cuda:
        raise CheckpointError(f"--device {wanted}: torch sees no CUDA device here")
    return torch.device(wanted)


def choose_dtype(wanted: str, device: torch.device, stored: torch.dtype) -> torch.dtype:
    """`auto`: on CUDA bfloat16, or float16 where it has none; on a CPU bfloat16 only for weights
    stored so and a processor that computes in it, otherwise float32."""
    if wanted != "auto":
        return DTYPES[wanted]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    if stored == torch.bfloat16 and torch.cpu.get_capabilities().get("avx512_bf16", False):
        return torch.bfloat16
    return torch.float32


def _served(name: str, adapter: str | None, model: Transformer, max_model_len: int | None) -> Served:
    own = model.config.max_positions
    return Served(name, adapter, model.config, min(own, max_model_len) if max_model_len else own)


def _runners(
    loaded: dict[str, _Loaded], device: torch.device, cache_bytes: int | None, is_deterministic: bool
) -> tuple[dict[str, Runner], Arena]:
    shapes = {
        name: CacheShape.of(one.model.config, one.model.embeddings.words.weight.dtype)
        for name, one in loaded.items()
    }
    num_pages, page_bytes = plan_arena(list(shapes.values()), cache_bytes or _default_cache_bytes(device))
    arena = Arena(num_pages, page_bytes, device)
    runners = {}
    for name, one in loaded.items():
        has_cache = shapes[name].num_layers > 0
        cache = arena.view(shapes[name]) if has_cache else None
        size = arena.block_size(shapes[name]) if has_cache else 1
        runners[name] = Runner(one.model, cache, size, read_pooling(one.folder), is_deterministic)
    return runners, arena


def _pace(wanted: float | None, device: torch.device) -> Pace | None:
    """Auto: 100 ms a step on a CPU, where a step could take seconds, no target on CUDA. 0: no target."""
    if wanted is None:
        wanted = CPU_STEP_MS if device.type == "cpu" else 0.0
    return Pace(wanted / 1000.0) if wanted else None


def _default_cache_bytes(device: torch.device) -> int:
    """CPU: 2 GiB or a quarter of what is free; CUDA: nine tenths of what the weights left free."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(0.9 * free)
    return min(CPU_CACHE_BYTES, available_bytes() // 4)


def _info(name: str, served: Served, one: _Loaded, device: torch.device) -> ModelInfo:
    return ModelInfo(
        name=name,
        kind=served.config.kind,
        max_model_len=served.max_model_len,
        vocab_size=served.config.vocab_size,
        parameters=one.model.num_parameters,
        bytes=parameter_bytes(one.model),
        load_seconds=one.seconds,
        dtype=str(one.model.embeddings.words.weight.dtype).removeprefix("torch."),
        device=str(device),
    )


def _with_blocks(info: ModelInfo, runners: dict[str, Runner], arena: Arena) -> ModelInfo:
    runner = runners[info.base or info.name]
    if info.kind == "encoder":
        return info
    return msgspec.structs.replace(info, num_blocks=arena.num_pages, block_size=runner.block_size)
