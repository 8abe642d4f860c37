"""Processes that train together."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
RANK = """
from pathlib import Path

import torch

from model.training.ranks import Ranks

ranks = Ranks.join("cpu")
import torch._dynamo  # as an optimizer does in its first step

print(f"sum {ranks.sums([ranks.rank + 1.0], torch.device('cpu'))}", end="; ")
ranks.leave()
print([(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_thread_of_the_group_outlives_it(tmp_path: Path) -> None:
    """One that lets go of a tensor while Python ends would abort the process."""
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(script),
    ]
    run = subprocess.run(
        command, env={"PYTHONPATH": str(ROOT)}, cwd=tmp_path, capture_output=True, text=True, timeout=200
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.count("[3.0]") == 2
    assert "gloo" not in run.stdout
