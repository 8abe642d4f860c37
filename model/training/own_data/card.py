"""The model card of a run: what it was trained on, how, and how well it does. Reads numbers, knows no tensors."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from model.training.cards import table
from model.training.own_data.columns import Task
from model.training.own_data.learner import Results
from model.training.own_data.plan import Plan
from model.training.own_data.report import Report
from model.training.own_data.split import Split

_PIPELINES: Mapping[Task, str] = {
    "classification": "text-classification",
    "qa": "question-answering",
    "translation": "translation",
    "seq2seq": "text2text-generation",
    "lm": "text-generation",
}
_SHOWN = (
    *("epochs", "max_steps", "max_minutes", "batch", "accumulation", "learning_rate", "warmup_steps"),
    *(
        "validate_every",
        "patience",
        "label_smoothing",
        "max_length",
        "precision",
        "seed",
        "devices",
        "threads",
    ),
)


@dataclass(frozen=True)
class Outcome:
    """How a run ended. `dev` are the scores of the kept weights, `best_step` the step that they are from."""

    dev: Mapping[str, float]
    best_step: int
    num_steps: int
    seconds: float
    num_parameters: int
    num_trained: int
    facts: Mapping[str, float | str]


def write_card(
    file: Path,
    plan: Plan,
    parts: Split,
    report: Report,
    outcome: Outcome,
    results: Results | None,
    serve: str,
) -> None:
    """A README.md as Hugging Face reads it."""
    lines = [
        "---",
        f"pipeline_tag: {_PIPELINES[plan.task]}",
        f"base_model: {json.dumps(Path(plan.base).name)}",
        *(["library_name: peft"] if plan.lora else ["library_name: transformers"]),
        "---",
        f"# {plan.task} on {Path(plan.data).name}",
        "",
        f"{_what(plan)} Trained by `quartet train`; served by:",
        "",
        "```",
        serve,
        "```",
        "",
        "## Data",
        "",
        *_data(plan, parts, report),
        "",
        "## Scores",
        "",
        *_scores(plan, parts, outcome, results),
        "",
        "## Training",
        "",
        f"{outcome.num_steps} steps in {outcome.seconds / 60:.1f} minutes; the weights are those of step",
        f"{outcome.best_step}. {outcome.num_trained:,} of {outcome.num_parameters:,} parameters were trained.",
        "AdamW (0.9, 0.999), weight decay 0.01 on matrices, gradients clipped to 1, linear warm-up, cosine decay.",
        "",
        *table(["setting", "value"], [[key, str(getattr(plan, key))] for key in _SHOWN]),
        *(["", f"LoRA of rank {plan.rank} and alpha {2 * plan.rank}."] if plan.lora else []),
        "",
        "![The loss over the steps](loss.png)",
        "",
        "## Limits",
        "",
        *_limits(plan, is_calibrated="temperature" in outcome.facts),
    ]
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _what(plan: Plan) -> str:
    base = Path(plan.base).name
    return f"A LoRA adapter on `{base}`." if plan.lora else f"`{base}`, every weight fine-tuned."


def _data(plan: Plan, parts: Split, report: Report) -> list[str]:
    held_out = plan.eval_data or plan.data
    rows = [
        ["train", str(len(parts.train)), "gradients"],
        ["development", str(len(parts.dev)), "early stopping, calibration"],
        ["test", str(len(parts.test)), f"the scores below, from `{Path(held_out).name}`"],
    ]
    lines = [f"`{Path(plan.data).name}`, SHA-256 `{plan.digests[plan.data]}`.", ""]
    lines += table(["part", "rows", "for"], rows)
    lines += ["", *(f"- {fact}" for fact in report.facts)]
    lines += [
        f"- {finding.severity}: {finding.title}, {len(finding.rows)} rows"
        for finding in report.findings.values()
    ]
    return lines


def _scores(plan: Plan, parts: Split, outcome: Outcome, results: Results | None) -> list[str]:
    if results is None:
        return ["No rows were kept for testing, so nothing is known of how well it does."]
    rows = [
        [score.name, f"{score.value:.2f}", f"{score.low:.2f} to {score.high:.2f}"] for score in results.scores
    ]
    lines = [
        f"On {len(parts.test)} test rows that had no part in training; intervals are 95 % by bootstrap over the rows.",
        "",
        *table(["measure", "value", "interval"], rows),
        "",
    ]
    facts = {**outcome.facts, **results.facts}
    lines += [
        f"- {name}: {value if isinstance(value, str) else f'{value:.4g}'}" for name, value in facts.items()
    ]
    told = ", ".join(f"{key} {value:.4g}" for key, value in outcome.dev.items())
    lines += [f"- development rows: {told}"] if told else []
    for title, header, cells in results.tables:
        lines += ["", f"### {title}", "", *table(header, cells)]
    return lines


def _limits(plan: Plan, is_calibrated: bool) -> list[str]:
    lines = [
        "- It knows the kind of text that is in its data and no other; the test rows are of that kind too, so texts",
        "  from elsewhere will score lower.",
        "- Faults and prejudices of the data, and of the base, are its own.",
    ]
    if plan.task == "classification":
        lines += [
            f"- Texts were cut at {plan.max_length} tokens. Whatever it is asked, it answers with one of its labels.",
            "- Its probabilities were calibrated on the development rows by one temperature, now in the last layer."
            if is_calibrated
            else "- Its probabilities were not calibrated: there were no development rows.",
        ]
    elif plan.task == "qa":
        lines += ["- It copies answers out of the text; every training question had one."]
    elif plan.task in ("translation", "seq2seq"):
        lines += [f"- Texts were cut at {plan.max_length} tokens on either side."]
    else:
        lines += ["- What it writes may be untrue."]
    return lines
