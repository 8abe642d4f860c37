"""How long a checkpoint of a gigabyte takes to load, against reading its bytes, and what memory that takes.

Each run is a process of its own, its imports done before the clock starts, its file in the page cache.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import Claim, Options, Report, alternate
from model.config import TransformerConfig
from model.loading import load_model, save_model
from model.stored import WEIGHTS
from model.transformer import Transformer

LOAD_TIMES_READ = 1.5
PEAK_TIMES_WEIGHTS = 1.15
_POLL_SECONDS = 0.002

GIGABYTE = TransformerConfig(
    family="llama",
    kind="decoder",
    head="lm",
    vocab_size=32000,
    hidden_size=2048,
    intermediate_size=5632,
    num_decoder_layers=8,
    num_heads=32,
    num_kv_heads=8,
    head_dim=64,
    max_positions=2048,
    position="rotary",
    norm="rmsnorm",
    norm_eps=1e-6,
    pre_norm=True,
    activation="silu",
    gated_mlp=True,
    attention_bias=False,
    output_bias=False,
    mlp_bias=False,
    attention_scale=64**-0.5,
    tie_embeddings=False,
)


def run(options: Options) -> Report:
    """Reading is a `readinto` of the whole file into a fresh buffer, the least that any loader does that copies."""
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root)
        in_child("make", folder)
        os.sync()  # what is still being written would slow the first rounds
        size = (folder / WEIGHTS).stat().st_size
        peaks: dict[str, list[float]] = {name: [] for name in ACTIONS}
        runs = {name: partial(_timed, name, folder, peaks[name]) for name in ACTIONS if name != "make"}
        seconds = alternate(runs, options.pairs)
    read, mib = seconds["read"], size / 2**20
    claims = [Claim("readinto a fresh buffer", "s", read)]
    for name, what in (
        ("load", "load, as stored"),
        ("pack", "load and pack"),
        ("float32", "load as float32"),
        ("int8", "load and quantize to int8"),
        ("int4", "load and quantize to int4"),
    ):
        target = LOAD_TIMES_READ if name in ("load", "pack") else None
        ratios = [ours / theirs for ours, theirs in zip(seconds[name], read, strict=True)]
        claims += [
            Claim(what, "s", seconds[name]),
            Claim(f"{what}: of the time to read", "x", ratios, (), target),
        ]
    for name, what in (("load", "load, as stored"), ("pack", "load and pack")):
        ratios = [peak / mib for peak in peaks[name][1:]]
        claims.append(Claim(f"{what}: anonymous peak of its bytes", "x", ratios, (), PEAK_TIMES_WEIGHTS))
    ratios = [peak / mib / 2 for peak in peaks["float32"][1:]]
    claims.append(Claim("load as float32: anonymous peak of its bytes", "x", ratios, (), PEAK_TIMES_WEIGHTS))
    for name, what in (("int8", "load and quantize to int8"), ("int4", "load and quantize to int4")):
        ratios = [peak / mib for peak in peaks[name][1:]]
        claims.append(Claim(f"{what}: anonymous peak of the file's bytes", "x", ratios))
    return Report("loading", claims, {"weights_mib": round(mib, 1), "peak_mib": peaks})


def _timed(action: str, folder: Path, peaks: list[float]) -> float:
    seconds, peak = in_child(action, folder)
    peaks.append(peak)
    return seconds


def in_child(action: str, folder: Path) -> tuple[float, float]:
    """Seconds, and the most anonymous memory beyond the idle process's, in MiB, looked at every few milliseconds."""
    command = [sys.executable, "-m", "benchmarks.loading", action, str(folder)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdout.readline()  # imports are done
        idle = peak = _anonymous_mib(child.pid)
        child.stdin.write("go\n")
        child.stdin.flush()
        while child.poll() is None:
            peak = max(peak, _anonymous_mib(child.pid))
            time.sleep(_POLL_SECONDS)
        answer = child.stdout.readline()
    if child.returncode:
        raise RuntimeError(f"{action} of {folder} ended with {child.returncode}")
    return float(json.loads(answer)["seconds"]), peak - idle


def _anonymous_mib(pid: int) -> float:
    """0 where the process has ended, or the system does not say."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon:")), 0.0)


def _make(folder: Path) -> None:
    """Random weights of the published shape in bfloat16."""
    with torch.device("meta"):
        model = Transformer(GIGABYTE)
    model = model.to(torch.bfloat16).to_empty(device="cpu").requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(std=GIGABYTE.initializer_range)
    save_model(model, folder)


def _read(folder: Path) -> None:
    file = folder / WEIGHTS
    buffer = np.empty(file.stat().st_size, dtype=np.uint8)
    with file.open("rb", buffering=0) as opened:
        filled = 0
        while filled < len(buffer):  # the system reads two gigabytes at most
            filled += opened.readinto(buffer[filled:].data) or 0


def _load(folder: Path) -> None:
    load_model(folder)


def _pack(folder: Path) -> None:
    """As the engine does."""
    load_model(folder).pack()


def _int8(folder: Path) -> None:
    load_model(folder, quantization="int8").pack()


def _int4(folder: Path) -> None:
    load_model(folder, quantization="int4").pack()


def _float32(folder: Path) -> None:
    load_model(folder, torch.float32)


ACTIONS: dict[str, Callable[[Path], None]] = {
    "make": _make,
    "read": _read,
    "load": _load,
    "pack": _pack,
    "float32": _float32,
    "int8": _int8,
    "int4": _int4,
}


def _child(action: str, folder: str) -> None:
    print("idle", flush=True)
    sys.stdin.readline()
    start = time.perf_counter()
    ACTIONS[action](Path(folder))
    print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


if __name__ == "__main__":
    _child(*sys.argv[1:])
