"""From a worker's configuration to an engine: devices, dtypes, weights, adapters, the arena."""

import time
from collections.abc import Callable
from pathlib import Path

import torch

from app.engine.adapters import Adapters
from app.engine.block_manager import BlockManager
from app.engine.compiler import Compiler
from app.engine.determinism import check_deterministic
from app.engine.drafting import Drafting
from app.engine.engine import Engine
from app.engine.faults import Prospects
from app.engine.flight import FlightRecorder
from app.engine.graphs import Capture, CudaCapture, GraphPlan
from app.engine.kv_cache import Arena, CacheShape, plan_arena
from app.engine.loader import Loader
from app.engine.memory import available_bytes, forget_pages, release_free
from app.engine.models import Keepers, LoadedModel, Models
from app.engine.pace import Pace
from app.engine.protocol import AdapterSpec, ModelSpec, WorkerConfig, served_name
from app.engine.scheduler import Scheduler
from model.config import CheckpointError
from model.families import read_config
from model.layers.quantized import Quantization
from model.loading import load_model, stored_dtype
from model.pooling import read_pooling
from model.stored import read_tensors, weight_files

DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
}
CPU_CACHE_BYTES = 2 * 2**30
CPU_STEP_MS = 100.0


def build_engine(
    config: WorkerConfig,
    clock: Callable[[], float] = time.monotonic,
    recorder: FlightRecorder | None = None,
    capture: Capture | None = None,
) -> Engine:
    """Loads every model and adapter. Raises CheckpointError for a folder that cannot be served.

    `clock`, in seconds, tells the engine how long its steps take, and the client, on `time.monotonic()`, when they
    began; in `recorder` it writes down what it is at. `capture` records decode steps; None: as CUDA does it, there.
    """
    device = choose_device(config.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)  # where Triton starts its kernels
        capture = capture or CudaCapture(device)
    loaded = [(spec, _read_model(spec, config, device)) for spec in config.models]
    cache_bytes = config.kv_cache_memory or _default_cache_bytes(device)
    plan = plan_arena([one.shape for _, one in loaded], cache_bytes, config.kv_cache_page)
    has_graphs = capture is not None and config.cuda_graphs
    arena = Arena(*plan, device, has_spare=has_graphs)
    scheduler = Scheduler(
        {}, BlockManager(arena.num_pages), config.token_budget, config.max_num_seqs, config.prefix_cache
    )
    compiler, drafting = Compiler(), Drafting(config.speculation)
    pace, prospects = _pace(config.target_step_ms, device), Prospects()
    keepers = Keepers(scheduler, compiler, drafting, (prospects,) if pace is None else (prospects, pace))
    graphs = GraphPlan(capture, config.max_num_seqs, arena.num_pages) if capture and has_graphs else None
    models = Models(arena, keepers, config.max_model_len, config.deterministic, graphs)
    for spec, one in loaded:
        models.add(spec, one)
    adapters = Adapters(models, config.deterministic)
    for adapter in config.adapters:
        _add_adapter(adapter, models, adapters)

    def read_another(spec: ModelSpec) -> LoadedModel:
        _check_fit(spec, config, arena, device)
        return _read_model(spec, config, device)

    loader = Loader(models, adapters, read_another)
    return Engine(
        *(models, loader, arena, scheduler, compiler, drafting, pace, prospects, clock, recorder),
    )


def _read_model(spec: ModelSpec, config: WorkerConfig, device: torch.device) -> LoadedModel:
    """Raises CheckpointError."""
    started, folder = time.perf_counter(), Path(spec.path)
    dtype = choose_dtype(config.dtype, device, stored_dtype(folder))
    quantization = choose_quantization(spec, device, dtype)
    shape = _cache_shape(spec, config, device, dtype)
    model = load_model(folder, dtype, device, quantization)
    model.pack()
    forget_pages(weight_files(folder))
    release_free()  # what laying weights out took
    if config.deterministic:
        check_deterministic(served_name(spec.name), model)
    seconds = time.perf_counter() - started
    return LoadedModel(model, folder, read_pooling(folder), quantization, shape, seconds)


def _cache_shape(
    spec: ModelSpec, config: WorkerConfig, device: torch.device, dtype: torch.dtype
) -> CacheShape:
    """Of a checkpoint whose hidden states are `dtype`. Raises CheckpointError."""
    read = read_config(Path(spec.path))
    if not read.num_decoder_layers:
        return CacheShape.of(read, dtype)
    return CacheShape.of(read, choose_cache_dtype(config.kv_cache_dtype, spec, device, dtype))


def _add_adapter(spec: AdapterSpec, models: Models, adapters: Adapters) -> None:
    """Raises CheckpointError."""
    if spec.base not in models.runners:
        raise CheckpointError(f"adapter {served_name(spec.name)}: its base {spec.base!r} is not served")
    started = time.perf_counter()
    weights = adapters.read(spec)
    adapters.attach(spec, weights, time.perf_counter() - started)


def _check_fit(spec: ModelSpec, config: WorkerConfig, arena: Arena, device: torch.device) -> None:
    """Raises CheckpointError, before any weight is read, where one more model finds no room beside the others."""
    folder = Path(spec.path)
    dtype = choose_dtype(config.dtype, device, stored_dtype(folder))
    arena.block_size(_cache_shape(spec, config, device, dtype))
    numbers = sum(tensor.num_elements for tensor in read_tensors(folder).values())
    needed = numbers * (dtype.itemsize if spec.quantization == "none" else 1)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_bytes()
    if needed > free:
        raise CheckpointError(
            f"its weights take {needed >> 20} MiB of memory, and {free >> 20} are free: unload another model first"
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


def choose_quantization(spec: ModelSpec, device: torch.device, dtype: torch.dtype) -> Quantization | None:
    """None for none. Raises CheckpointError for one that cannot be computed with here."""
    wanted = spec.quantization
    if wanted == "none":
        return None
    where = f"--quantization {wanted}, model {served_name(spec.name)}"
    if device.type != "cpu" and wanted == "int4":
        raise CheckpointError(f"{where}: this is done on a CPU only; {device} takes int8 and fp8")
    if dtype not in (torch.float32, torch.bfloat16) and (device.type == "cpu" or dtype != torch.float16):
        name = str(dtype).removeprefix("torch.")
        raise CheckpointError(f"{where}: rows of {name} cannot be quantized; --dtype float32 or bfloat16 can")
    return wanted


def choose_cache_dtype(wanted: str, spec: ModelSpec, device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """Of keys and values, where hidden states are `dtype`. `auto`: the same, but bfloat16 for quantized weights and
    float32 on a CPU. Raises CheckpointError for one that cannot be kept here."""
    can_narrow = device.type == "cpu" and dtype == torch.float32
    if wanted == "auto":
        return torch.bfloat16 if can_narrow and spec.quantization != "none" else dtype
    if DTYPES[wanted] != dtype and not (can_narrow and wanted == "bfloat16"):
        name = str(dtype).removeprefix("torch.")
        raise CheckpointError(
            f"--kv-cache-dtype {wanted}, model {served_name(spec.name)}: hidden states of {name} on {device} have a "
            f"cache of {name}; only on a CPU float32 has one of bfloat16 too"
        )
    return DTYPES[wanted]


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
