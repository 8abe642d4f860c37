"""Draws how a decode step grows with its sequences, from what `python -m benchmarks steps --full` has kept:
`python -m docs.batches [FILE]`."""

import json
import sys
from pathlib import Path
from statistics import median

import matplotlib

matplotlib.use("Agg")
from matplotlib.figure import Figure

PICTURE = Path(__file__).parent / "images" / "batches.svg"


def main(file: str = "results/steps.json") -> None:
    """Milliseconds of a step over its sequences, and beneath them those of the work around the model."""
    claims = json.loads(Path(file).read_text(encoding="utf-8"))["claims"]
    wholes, shares = claims[::2], claims[1::2]
    batches = [int(claim["what"].split()[-1]) for claim in wholes]
    times = [median(claim["ours"]) for claim in wholes]
    around = [time * median(claim["ours"]) for time, claim in zip(times, shares, strict=True)]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(batches, times, marker="o", markersize=4, color="tab:blue", label="a step")
    axes.plot(
        batches, around, marker="o", markersize=4, color="tab:orange", label="of it, work around the model"
    )
    axes.set(xlabel="sequences that decode", ylabel="ms", xlim=(0, None), ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(PICTURE, metadata={"Date": None})


if __name__ == "__main__":
    main(*sys.argv[1:])
