"""The loop and its checkpoints: a stage that is killed ends as one that is not."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from model.training.checkpoint import AtomicFolder
from model.training.config import Schedule
from model.training.data import bucketed_batches
from model.training.loop import train
from model.training.optim import WeightAverage, learning_rate
from model.training.pretrain import NextToken
from model.transformer import Transformer
from tests.tiny import LLAMA, random_model

SCHEDULE = Schedule(
    learning_rate=3e-3,
    max_epochs=3,
    warmup_steps=3,
    batch_tokens=64,
    accumulation=2,
    average=0.9,
    precision="float32",
    seed=5,
)


def _stage() -> tuple[Transformer, NextToken]:
    model = random_model(LLAMA, dtype=torch.float32, dropout=0.1).requires_grad_(True)
    documents = [[3 + (start + i) % 11 for i in range(20 + start)] for start in range(8)]
    return model, NextToken(documents, documents[:2], block=12, separator=1)


def _losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


def test_a_resumed_stage_has_the_losses_and_weights_of_one_that_was_never_stopped(tmp_path: Path) -> None:
    whole, objective = _stage()
    train(whole, objective, SCHEDULE, tmp_path / "whole")
    stopped, objective = _stage()
    # Every step is checkpointed, and the stage leaves after the fourth as if killed.
    train(stopped, objective, SCHEDULE, tmp_path / "cut", checkpoint_minutes=0.0, stop_after=4)
    resumed, objective = _stage()
    scores = train(resumed, objective, SCHEDULE, tmp_path / "cut")
    expected = _losses(tmp_path / "whole")
    assert _losses(tmp_path / "cut") == expected
    assert expected[-1] < expected[0]
    assert scores["perplexity"] > 1.0
    for ours, theirs in zip(resumed.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_killed_process_leaves_a_checkpoint_to_go_on_from(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from tests.training.test_loop import _stage, SCHEDULE, train\n"
        "from dataclasses import replace; import torch; torch.set_num_threads(1)\n"
        "model, objective = _stage()\n"
        "many = replace(SCHEDULE, max_epochs=100000)\n"
        "train(model, objective, many, Path(sys.argv[1]), checkpoint_minutes=0.0)\n"
    )
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(run)],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )
    try:
        while not list(run.glob("checkpoint-*/state.json")):
            assert process.poll() is None
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    model, objective = _stage()
    state = json.loads(next(run.glob("checkpoint-*/state.json")).read_text())
    steps_before = state["counters"]["step"]
    train(model, objective, SCHEDULE, run, stop_after=steps_before + 1)
    assert len(_losses(run)) == steps_before + 1


def test_a_folder_that_fails_half_way_does_not_appear(tmp_path: Path) -> None:
    (tmp_path / "it").mkdir()
    (tmp_path / "it" / "old").touch()
    with contextlib.suppress(KeyboardInterrupt), AtomicFolder(tmp_path / "it") as folder:
        (folder / "new").touch()
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["it"]
    with AtomicFolder(tmp_path / "it") as folder:
        (folder / "new").touch()
    assert [path.name for path in (tmp_path / "it").iterdir()] == ["new"]


def test_batches_hold_each_example_once_within_the_budget() -> None:
    lengths = [(3 + i % 7, 2 + i % 5) for i in range(200)]
    batches = bucketed_batches(lengths, max_tokens=90, max_examples=8, seed=3)
    assert sorted(index for batch in batches for index in batch) == list(range(200))
    for batch in batches:
        padded = [max(lengths[index][side] for index in batch) for side in (0, 1)]
        assert sum(padded) * len(batch) <= 90
        assert len(batch) <= 8
    assert batches == bucketed_batches(lengths, max_tokens=90, max_examples=8, seed=3)
    assert batches != bucketed_batches(lengths, max_tokens=90, max_examples=8, seed=4)


def test_the_rate_warms_up_and_falls_to_its_last_fraction() -> None:
    schedule = Schedule(learning_rate=1.0, max_epochs=1, warmup_steps=10, final_fraction=0.1)
    assert learning_rate(schedule, 0, 0.0) == pytest.approx(0.1)
    assert learning_rate(schedule, 9, 0.0) == pytest.approx(1.0)
    assert learning_rate(schedule, 500, 0.5) == pytest.approx(0.55)
    assert learning_rate(schedule, 999, 1.0) == pytest.approx(0.1)


def test_the_average_follows_the_weights_and_can_be_swapped_in() -> None:
    weight = torch.nn.Parameter(torch.zeros(2))
    average = WeightAverage({"w": weight}, decay=0.5)
    with torch.no_grad():
        weight.fill_(1.0)
    for _ in range(20):
        average.update({"w": weight})
    assert average.shadow["w"].tolist() == pytest.approx([1.0, 1.0], abs=1e-3)
    with torch.no_grad():
        weight.fill_(7.0)
    average.swap({"w": weight})
    assert weight.tolist() == pytest.approx([1.0, 1.0], abs=1e-3)
    average.swap({"w": weight})
    assert weight.tolist() == [7.0, 7.0]
