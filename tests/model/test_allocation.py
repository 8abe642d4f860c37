"""Large temporaries come from memory that earlier ones left, not from the kernel."""

import subprocess
import sys

import pytest

CODE = """
import resource, sys, torch
from model.allocation import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(24):  # until the heap has grown to what it needs
    torch.ones(9 * 2**20)
before = faults()
for _ in range(8):
    torch.ones(9 * 2**20)
print(faults() - before)
"""


def page_faults(mode: str) -> int:
    run = subprocess.run([sys.executable, "-c", CODE, mode], capture_output=True, text=True, check=True)
    return int(run.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it is glibc's allocator that is told")
def test_a_freed_tensor_s_memory_is_the_next_one_s() -> None:
    # 36 MiB are 9,216 pages of 4 KiB; huge ones may be used, so the counts are compared.
    assert page_faults("keep") * 4 < page_faults("give back")
