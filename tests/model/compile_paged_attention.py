"""Compiles the attention for GPUs that are not here, and prints the bytes of shared memory that each kernel takes.

A process of its own, since Triton either interprets or compiles: run by `tests/model/test_paged_attention.py`.
"""

import json
import sys

from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.compiler import compile as compile_kernel

from model.kernels import paged_attention

NUMBERS = {"bf16": 2, "fp16": 2, "fp32": 4}
CASES = (
    (80, "bf16", 16, 1, 64),
    (80, "fp32", 16, 2, 128),
    (89, "fp16", 1, 8, 128),
    (89, "fp32", 16, 1, 256),
    (90, "bf16", 8, 7, 64),
    (90, "bf16", 16, 4, 256),
)
"""Compute capability, dtype, rows a tile, query heads that share a key-value head, size of a head."""


def main() -> None:
    used = []
    for capability, dtype, rows, shared, head_dim in CASES:
        shape = paged_attention.tile_shape(rows, shared, head_dim, NUMBERS[dtype])
        signature = dict.fromkeys(paged_attention._attend.arg_names, "i32")
        signature |= dict.fromkeys(("query", "cache", "out"), f"*{dtype}")
        signature |= dict.fromkeys(("tables", "num_keys", "tiles"), "*i64")
        signature |= {"bias": "*fp32", "scale": "fp32"} | dict.fromkeys([*shape, "IS_WIDE"], "constexpr")
        made = compile_kernel(
            ASTSource(paged_attention._attend, signature, {**shape, "IS_WIDE": False}),
            target=GPUTarget("cuda", capability, 32),
            options=paged_attention.launch_options(rows, shared, head_dim),
        )
        assert made.asm["cubin"]
        used.append(made.metadata.shared)
    json.dump(used, sys.stdout)


if __name__ == "__main__":
    main()
