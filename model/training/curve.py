"""Draws the loss curve of a stage from its log."""

import json
from io import BytesIO
from pathlib import Path

import matplotlib
from PIL import Image

matplotlib.use("Agg")
from matplotlib.figure import Figure

_COLOURS = 16


def draw_loss_curve(log: Path, picture: Path, title: str) -> None:
    """A PNG of the loss over the steps, thin, its running mean, thick, and the development loss where there is one."""
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    steps = [row["step"] for row in rows if "loss" in row]
    losses = [row["loss"] for row in rows if "loss" in row]
    smooth, mean = [], None
    for loss in losses:
        mean = loss if mean is None else 0.97 * mean + 0.03 * loss
        smooth.append(mean)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.plot(steps, losses, linewidth=0.4, alpha=0.5, color="tab:blue")
    axes.plot(steps, smooth, linewidth=1.8, color="tab:blue")
    dev = [(row["step"], row["dev_loss"]) for row in rows if "dev_loss" in row]
    if dev:
        axes.plot(*zip(*dev, strict=True), marker="o", markersize=3, color="tab:orange", label="development")
        axes.legend()
    axes.set(title=title, xlabel="step", ylabel="loss")
    axes.grid(alpha=0.3)
    pixels = BytesIO()
    figure.savefig(pixels, dpi=110)
    # A few colours are enough, and a fifth of the size.
    Image.open(pixels).convert("RGB").quantize(_COLOURS).save(picture, "PNG", optimize=True)
