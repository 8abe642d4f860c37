"""Latency and throughput against load, as a picture. Needs matplotlib."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from app.bench.summary import Level

_BLUE, _RED, _GREEN, _GREY = "#3b78b0", "#d1495b", "#4c9f70", "#8c8c8c"
_LINES = (("p50", _BLUE, "-"), ("p90", _BLUE, ":"), ("p99", _RED, "-"))
_STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 9,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _GREY,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "quartet",
}
_LABELS = {"concurrency": "clients at once", "rate": "requests a second, sent", "trace": "trace"}


def draw(levels: Sequence[Level], title: str, subtitle: str, picture: Path) -> None:
    """As its name ends, .png or .svg. Streams show two latencies, other answers the one that they have."""
    levels = sorted(levels, key=_x)
    is_streamed = any(level["ttft_s"] for level in levels)
    shown = (
        [("ttft_s", "Time to first token", "ttft"), ("inter_token_s", "Between tokens", "itl")]
        if is_streamed
        else [("end_to_end_s", "End to end", "e2e")]
    )
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(3.2 * (len(shown) + 1), 3.1), layout="constrained")
        figure.suptitle(f"{title}\n{subtitle}", fontsize=8, color="#404040", x=0.01, ha="left")
        *latencies, throughput = figure.subplots(1, len(shown) + 1)
        for axes, (key, name, objective) in zip(latencies, shown, strict=True):
            _draw_latency(axes, levels, key, objective)
            axes.set(title=f"{name}, ms")
        _draw_throughput(throughput, levels)
        for axes in (*latencies, throughput):
            _draw_loads(axes, levels)
        figure.savefig(
            picture, dpi=150, metadata={"Date": None} if picture.suffix.lower() == ".svg" else None
        )


def _draw_latency(axes: Axes, levels: Sequence[Level], key: str, objective: str) -> None:
    for percent, colour, style in _LINES:
        told = [(_x(level), 1000 * level[key][percent]) for level in levels if level[key]]
        if told:
            axes.plot(*zip(*told, strict=True), style, color=colour, marker="o", markersize=3, label=percent)
    wanted = next(
        (level["goodput"]["objectives_s"].get(objective) for level in levels if level["goodput"]), None
    )
    if wanted is not None:
        axes.axhline(1000 * wanted, color=_GREEN, linewidth=0.8, linestyle="--", label="objective")
    axes.set_yscale("log")
    _set_log(axes.yaxis)
    axes.legend()


def _draw_throughput(axes: Axes, levels: Sequence[Level]) -> None:
    is_text = any(level["per_second"]["output_tokens"] for level in levels)
    key, name = ("output_tokens", "Output tokens/s") if is_text else ("requests", "Requests/s")
    lines: list[tuple[str, str, str, Callable[[Level], float]]] = [
        ("all answers", _BLUE, "-", lambda level: level["per_second"][key])
    ]
    if all(level["goodput"] for level in levels):
        lines.append(("within objectives", _GREEN, "--", lambda level: level["goodput"][f"{key}_per_second"]))
    for label, colour, style, value in lines:
        axes.plot(
            [_x(level) for level in levels],
            [value(level) for level in levels],
            style,
            color=colour,
            marker="o",
            markersize=3,
            label=label,
        )
    axes.set(title=name)
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    if len(lines) > 1:
        axes.legend()


def _draw_loads(axes: Axes, levels: Sequence[Level]) -> None:
    places = sorted({_x(level) for level in levels})
    if places[-1] >= 8 * places[0]:
        axes.set_xscale("log")
    axes.set_xticks(places, [f"{place:g}" for place in places])
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(_LABELS[levels[0]["load"]["kind"]])


def _x(level: Level) -> float:
    value: float | None = level["load"]["value"]
    return 1.0 if value is None else value


def _set_log(axis: Axis) -> None:
    """Of a logarithmic axis: ticks that are read as plain numbers, some within a decade too."""
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,g}"))
    axis.set_minor_locator(NullLocator())
