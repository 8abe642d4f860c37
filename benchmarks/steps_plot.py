"""`python -m benchmarks.steps_plot RESULTS.json… --out PICTURE.svg`: draws what `python -m benchmarks steps` kept."""

import argparse
import json
import re
import sys
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib
from matplotlib.figure import Figure

_STEP = re.compile(r"a step of (\d+)")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.steps_plot", description=__doc__)
    parser.add_argument("results", nargs="+", type=Path, metavar="RESULTS.json")
    parser.add_argument("--out", type=Path, required=True)
    chosen = parser.parse_args(arguments)
    draw({path.stem: json.loads(path.read_text(encoding="utf-8")) for path in chosen.results}, chosen.out)
    return 0


def draw(kept: dict[str, Any], picture: Path) -> None:
    """An SVG, the same bytes for the same results: one panel each, milliseconds of a decode step by its sequences, and
    a straight line through the first measured step of 32 and more and the last."""
    with matplotlib.rc_context({"svg.hashsalt": "steps", "svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(4 * len(kept), 3), layout="constrained")
        for (name, report), axes in zip(
            kept.items(), figure.subplots(1, len(kept), squeeze=False)[0], strict=True
        ):
            points = step_times(report)
            axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label="measured")
            ends = [point for point in points if point[0] >= 32]
            if len(ends) > 2:
                straight = [ends[0], ends[-1]]
                axes.plot(*zip(*straight, strict=True), color="0.6", linestyle="--", label="straight from 32")
            axes.set(title=name, xlabel="sequences in a step", ylabel="milliseconds", xlim=(0, None))
            axes.set_ylim(0)
            axes.grid(alpha=0.3)
            axes.legend(frameon=False)
        figure.savefig(picture, format="svg", metadata={"Date": None})


def step_times(report: dict[str, Any]) -> list[tuple[int, float]]:
    """Sequences and milliseconds of a report's steps, by sequences."""
    matches = ((_STEP.fullmatch(claim["what"]), claim["ours"]) for claim in report["claims"])
    return sorted((int(match[1]), median(times)) for match, times in matches if match)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
