"""A small data file of every task, and the tiny checkpoints to train on it."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from model.training.own_data.columns import Task

NUM_ROWS = 40
WORDS = ("red", "blue", "green", "grey")


def write_data(folder: Path, task: Task, num_rows: int = NUM_ROWS) -> Path:
    """Short texts without fault."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{task}.jsonl"
    rows = [_ROWS[task](number) for number in range(num_rows)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _labelled(number: int) -> dict[str, Any]:
    return {"text": f"{WORDS[number % 4]} {number}", "label": ("warm", "cold")[number % 2]}


def _question(number: int) -> dict[str, Any]:
    context = f"no {number}: it is {WORDS[number % 4]}."
    return {"question": f"{number}?", "context": context, "answer": WORDS[number % 4]}


def _pair(number: int) -> dict[str, Any]:
    return {"source": f"{WORDS[number % 4]} {number}", "target": f"{number} {WORDS[number % 4].upper()}"}


def _running(number: int) -> dict[str, Any]:
    return {"text": f"{WORDS[number % 4]} and {number} and {WORDS[number % 3]}"}


_ROWS = {
    "classification": _labelled,
    "qa": _question,
    "translation": _pair,
    "seq2seq": _pair,
    "lm": _running,
}


def losses(out: Path) -> list[float]:
    """Of every step of a run."""
    lines: Sequence[str] = (out / "training" / "log.jsonl").read_text().splitlines()
    return [row["loss"] for row in map(json.loads, lines) if "loss" in row]
