"""W0: what the machine can do at most, measured in the same run as the engines."""

import time
from collections.abc import Callable
from functools import partial

import torch

from benchmarks.measure import Claim

GIB = 2**30
ROUNDS = 5
SIZE = 2048


@torch.inference_mode()
def measure(threads: int = 2) -> list[Claim]:
    """Reading memory, and products of square matrices in float32, bfloat16 and int8."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    memory = torch.ones(GIB // 4, dtype=torch.float32)
    claims = [Claim("W0 read", "GB/s", _speeds(lambda: memory.sum(), GIB / 1e9))]
    work = 2 * SIZE**3 / 1e9
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.randn(SIZE, SIZE).to(dtype)
        name = f"W0 product {str(dtype).removeprefix('torch.')}"
        claims.append(Claim(name, "GFLOP/s", _speeds(partial(torch.matmul, matrix, matrix), work)))
    whole = torch.randint(-100, 100, (SIZE, SIZE), dtype=torch.int8)
    claims.append(Claim("W0 product int8", "GOP/s", _speeds(lambda: torch._int_mm(whole, whole), work)))
    torch.set_num_threads(before)
    return claims


def _speeds(run: Callable[[], object], work: float) -> list[float]:
    run()
    speeds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        run()
        speeds.append(work / (time.perf_counter() - start))
    return speeds
