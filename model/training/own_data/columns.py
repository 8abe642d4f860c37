"""Which column plays which part in a task: by the names that people give, or as they are told."""

from collections.abc import Mapping, Sequence
from typing import Literal

from model.training.own_data.report import Report

Task = Literal["classification", "qa", "translation", "seq2seq", "lm"]

_TEXTS = ("text", "sentence", "utterance", "message", "content", "body", "review", "description", "query")
_SOURCES = ("source", "src", "input", "text", "document", "article", "prompt", "from", "original")
_TARGETS = ("target", "tgt", "output", "summary", "translation", "response", "completion", "to", "reference")
_LABELS = ("label", "labels", "category", "class", "intent", "topic", "sentiment", "tag", "queue", "target")

PARTS: Mapping[Task, Mapping[str, Sequence[str]]] = {
    "classification": {"text": (*_TEXTS, "input"), "label": _LABELS},
    "qa": {
        "question": ("question", "query"),
        "context": ("context", "passage", "paragraph", "document", "text"),
        "answer": ("answer", "answers", "answer_text"),
        "answer_start": ("answer_start", "start", "answer_offset"),
    },
    "translation": {"source": _SOURCES, "target": _TARGETS},
    "seq2seq": {"source": _SOURCES, "target": _TARGETS},
    "lm": {"text": (*_TEXTS, "document")},
}
"""By task, each part and the names it is guessed by, the likeliest first."""
OPTIONAL = frozenset({"answer_start"})


def find_columns(
    task: Task, columns: Sequence[str], chosen: Mapping[str, str], report: Report
) -> dict[str, str]:
    """Part → column. `chosen` are those that were told; a part that has none refuses the file."""
    lower = {name.lower(): name for name in reversed(columns)}
    found: dict[str, str] = {}
    for part, names in PARTS[task].items():
        flag = f"--{part.replace('_', '-')}"
        if part in chosen:
            if chosen[part] in columns:
                found[part] = chosen[part]
            else:
                told = f"{flag} says {chosen[part]!r}, but the columns are {_listed(columns)}"
                report.refuse("a column is missing", told, column=chosen[part])
            continue
        taken = set(found.values()) | set(chosen.values())
        guess = next((lower[name] for name in names if name in lower and lower[name] not in taken), None)
        if guess is None and len(PARTS[task]) == len(columns) == 1:
            guess = columns[0]
        if guess is not None:
            found[part] = guess
        elif part not in OPTIONAL:
            told = f"none of the columns ({_listed(columns)}) is known to hold the {part}: name it with {flag} COLUMN"
            report.refuse("a column is missing", told, row=1, column=part)
    return found


def _listed(columns: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:40]) for name in columns[:8])
    return f"{shown}, …" if len(columns) > 8 else shown or "none"
