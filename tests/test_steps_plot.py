"""The picture of what a step takes, from what `python -m benchmarks steps` keeps."""

import json
from pathlib import Path

from benchmarks.measure import Claim, Report
from benchmarks.steps_plot import main, step_times


def _kept(folder: Path) -> Path:
    steps = {64: [9.0, 11.0, 10.0], 1: [3.0], 32: [7.5], 256: [34.0]}
    claims = [Claim(f"a step of {batch}", "ms", times) for batch, times in steps.items()]
    return Report("steps", [*claims, Claim("work around the model, of 32", "share", [0.07])]).save(folder)


def test_steps_come_in_order_as_medians_and_nothing_else_does(tmp_path: Path) -> None:
    report = json.loads(_kept(tmp_path).read_text(encoding="utf-8"))
    assert step_times(report) == [(1, 3.0), (32, 7.5), (64, 10.0), (256, 34.0)]


def test_the_same_results_draw_the_same_bytes(tmp_path: Path) -> None:
    kept = _kept(tmp_path)
    pictures = [tmp_path / "one.svg", tmp_path / "two.svg"]
    for picture in pictures:
        assert main([str(kept), "--out", str(picture)]) == 0
    first, second = (picture.read_text(encoding="utf-8") for picture in pictures)
    assert first == second
    assert "straight from 32" in first
