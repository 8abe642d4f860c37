"""What all tests share: one thread for tensor work, no network, GPU tests skipped where there is no GPU."""

import os
from pathlib import Path

import pytest

# Before torch or tokenizers are first imported, by this process and by the workers that tests start.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["HF_HUB_OFFLINE"] = "1"
if not Path("/dev/nvidiactl").exists():
    os.environ["TRITON_INTERPRET"] = "1"  # where Triton is, its kernels are computed on the CPU
for name in [name for name in os.environ if name.startswith("QUARTET_")]:
    del os.environ[name]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))
