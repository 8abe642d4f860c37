"""The parts of a model's card that stored files tell: scores, calibration, cost. What is written by hand stays."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from model.config import CheckpointError
from model.families import read_json
from model.training.evaluate import STAGE

SCORES = "scores.json"
"""Beside exported weights: what `evaluate` found."""
WATTS_A_CORE = 10.0
"""Assumed of a busy server core with its share of memory and cooling; nothing was metered."""


def write_card(folder: Path) -> None:
    """Remakes what stands between the marks `<!-- scores -->` and `<!-- /scores -->`, and likewise `cost`, in the
    README.md of `folder`, where there is one. Raises CheckpointError where a mark is missing."""
    card = folder / "README.md"
    if not card.exists():
        return
    text = card.read_text(encoding="utf-8")
    stage = read_json(folder / STAGE)
    for name, lines in {
        "scores": [*_scores(read_json(folder / SCORES)), *_calibration(stage)],
        "cost": _cost(stage),
    }.items():
        start, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        before, opened, rest = text.partition(start)
        _, closed, after = rest.partition(end)
        if not (opened and closed):
            raise CheckpointError(f"{card}: no place marked <!-- {name} --> … <!-- /{name} -->")
        text = "\n".join([before + start, *lines, "", end + after])
    card.write_text(text, encoding="utf-8")


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table."""
    lines = [f"| {' | '.join(header)} |", f"| {' | '.join('---' for _ in header)} |"]
    return lines + [f"| {' | '.join(cell.replace('|', '¦') for cell in row)} |" for row in rows]


def _scores(scores: Mapping[str, Any]) -> list[str]:
    rows = []
    signatures: dict[str, None] = {}
    for test, measures in scores.items():
        signatures |= {measures["signature"]: None} if "signature" in measures else {}
        for name, measure in measures.items():
            if isinstance(measure, dict):
                interval = f"{measure['low']:.2f} to {measure['high']:.2f}"
                rows.append([test, str(measures["examples"]), name, f"{measure['value']:.2f}", interval])
            elif isinstance(measure, float):
                rows.append([test, str(measures["examples"]), name, f"{measure:.2f}", ""])
    lines = [
        "Measured in float32 after export; intervals are 95 % by bootstrap over the rows, where they were taken.",
        "",
        *table(["test set", "rows", "measure", "value", "interval"], rows),
    ]
    beams = {m["num_beams"] for m in scores.values() if "num_beams" in m}
    if signatures:
        how = "greedy" if beams == {1} else f"by {', '.join(map(str, sorted(beams)))} beams"
        told = ", ".join(f"`{one}`" for one in signatures)
        lines += ["", f"Translations are {how}; BLEU is sacrebleu's ({told}), a percentage as chrF is."]
    return lines


def _calibration(stage: Mapping[str, Any]) -> list[str]:
    told = stage.get("calibration")
    if not isinstance(told, Mapping):
        return []
    if "temperature" not in told:
        return ["", _no_answer(told)]
    before, after = (f"{told[name]:.2f} %" for name in ("ece_before", "ece_after"))
    line = (
        f"Calibrated on development rows by the temperature {told['temperature']:.3f}, which is in the last layer's "
        f"weights: the calibration error there was {before} before and {after} after"
    )
    if "bias" in told:
        line += f"; then {told['bias']:.1f} was added to the logit of `oos`"
    return ["", line + ". `ece` above is of the test rows, `ece_before` what it was there without that."]


def _no_answer(told: Mapping[str, float]) -> str:
    return (
        f"With `allow_no_answer` a span must be worth more than {told['value']:.2f}, chosen on development questions: "
        f"there {told['answered']:.1f} % are answered beside their own texts, and refused are "
        f"{told['refused_within']:.1f} % beside another paragraph of the same article, "
        f"{told['refused_elsewhere']:.1f} % beside one of another article."
    )


def _cost(stage: Mapping[str, Any]) -> list[str]:
    minutes = float(stage["processor_minutes"])
    counted = stage.get("counted", "counted by the stage itself")
    line = (
        f"{minutes:.0f} minutes of processor time ({counted}), on cores of an AMD EPYC (AVX-512 with bf16) beside "
        f"other work. An estimate, not metered: {minutes / 60 * WATTS_A_CORE:.1f} Wh, at an assumed {WATTS_A_CORE:.0f} "
        "W for a busy core with its share of memory and cooling."
    )
    return [line]
