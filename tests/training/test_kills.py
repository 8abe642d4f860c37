"""Runs that are killed, and runs of several processes: both end as one that nothing happened to."""

import json
import multiprocessing
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from model.training.__main__ import main
from tests.e2e.checkpoints import write_checkpoints
from tests.training.own_data_files import losses, write_data

ROOT = Path(__file__).resolve().parents[2]
NUM_KILLS = 10


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return write_checkpoints(tmp_path / "bases")["sentences"]


@pytest.fixture
def command(base: Path, tmp_path: Path) -> list[str]:
    data = write_data(tmp_path, "classification")
    return ["train", "--task", "classification", "--data", str(data), "--base", str(base), "--batch", "4"]


def test_a_run_that_is_killed_ten_times_ends_as_one_that_is_not(
    command: list[str], base: Path, tmp_path: Path
) -> None:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"hidden_dropout_prob": 0.1}))  # so that it draws
    arguments = [*command, "--epochs", "25", "--patience", "0", "--validate-every", "5"]
    whole, out = tmp_path / "whole", tmp_path / "killed"
    assert main([*arguments, "--out", str(whole)]) == 0
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["model.training.__main__"])
    draw = random.Random(4)
    often = ["--out", str(out), "--checkpoint-minutes", "0"]
    words = [*arguments, *often]
    for _ in range(NUM_KILLS):
        start = newest(out)
        process = context.Process(target=main, args=(words,))
        process.start()
        target = start + draw.randint(0, 6)  # 0: before it has done anything
        while newest(out) < target or not (out / "training" / "plan.json").exists():
            assert process.is_alive()
        process.kill()
        process.join()
        words = ["train", "--resume", *often]
    assert 0 < newest(out) < len(losses(whole))
    assert main(words[:-2]) == 0
    assert losses(out) == losses(whole)
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert not list(out.rglob(".*"))


def newest(out: Path) -> int:
    """The step of the newest checkpoint."""
    return max((int(path.name[-8:]) for path in out.glob("training/checkpoint-*")), default=0)


def test_two_processes_learn_what_one_does_of_batches_twice_as_many(
    command: list[str], tmp_path: Path
) -> None:
    arguments = [*command, "--max-steps", "12", "--validate-every", "4", "--threads", "1"]
    one, two = tmp_path / "one", tmp_path / "two"
    assert main([*arguments, "--accumulation", "2", "--out", str(one)]) == 0
    run = subprocess.run(
        [sys.executable, "-m", "model.training", *arguments, "--devices", "2", "--out", str(two)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert run.returncode == 0, run.stderr
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    ours, theirs = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 1e-4
    assert run.stderr.count("is ready after") == 1
