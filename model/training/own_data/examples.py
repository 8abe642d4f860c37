"""From rows to the examples of a task: every field is looked at, and what cannot be learnt from is left out."""

import bisect
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model.training.own_data.columns import Task
from model.training.own_data.report import Report, quoted
from model.training.own_data.table import Row, Table, text_fault


@dataclass(frozen=True)
class Example:
    """`inputs` are what the model reads: a text, a source, or question and context; `output` what it is to say:
    a label, a target, an answer, "" for running text. `start` is where the answer begins in the context."""

    row: int
    inputs: tuple[str, ...]
    output: str = ""
    start: int = 0

    @property
    def group(self) -> str:
        """Examples that share it go into the same part of a split: those of one context, or of one text."""
        return self.inputs[-1]


def read_examples(task: Task, table: Table, columns: Mapping[str, str], report: Report) -> list[Example]:
    """What can be used, in the order of the file; the rest is noted."""
    reader = _Reader(columns, report)
    read: Callable[[Row], Example | None] = {
        "classification": reader.labelled,
        "qa": reader.question,
        "translation": reader.pair,
        "seq2seq": reader.pair,
        "lm": reader.running,
    }[task]
    return [example for row in table.rows if (example := read(row)) is not None]


class _Reader:
    """One file's rows to examples."""

    def __init__(self, columns: Mapping[str, str], report: Report) -> None:
        self._columns, self._report = columns, report

    def labelled(self, row: Row) -> Example | None:
        text, label = self._text(row, "text"), self._label(row)
        return None if text is None or label is None else Example(row.number, (text,), label)

    def pair(self, row: Row) -> Example | None:
        source, target = self._text(row, "source"), self._text(row, "target")
        return None if source is None or target is None else Example(row.number, (source,), target)

    def running(self, row: Row) -> Example | None:
        text = self._text(row, "text")
        return None if text is None else Example(row.number, (text,))

    def question(self, row: Row) -> Example | None:
        question, context = self._text(row, "question"), self._text(row, "context")
        answer, start = self._answer(row)
        if question is None or context is None or answer is None:
            return None
        place = self._find(row, context, answer, start)
        return None if place is None else Example(row.number, (question, context), answer, place)

    def _text(self, row: Row, part: str) -> str | None:
        column = self._columns[part]
        value = row.values.get(column)
        if value is None:
            self._report.leave_out(f"empty {part}", row.number, column, "there is none")
            return None
        if not isinstance(value, str):
            told = f"{quoted(json.dumps(value))} is a {type(value).__name__}, not a text"
            self._report.leave_out(f"{part} is no text", row.number, column, told)
            return None
        return self._looked_at(row, part, value)

    def _label(self, row: Row) -> str | None:
        value = row.values.get(self._columns["label"])
        if isinstance(value, int | float):
            value = json.dumps(value)
        text = self._text(Row(row.number, {**row.values, self._columns["label"]: value}), "label")
        return None if text is None else text.strip()

    def _looked_at(self, row: Row, part: str, value: str) -> str | None:
        column = self._columns[part]
        if not value.strip():
            told = "only blanks" if value else "nothing in it"
            self._report.leave_out(f"empty {part}", row.number, column, told)
            return None
        fault = text_fault(value)
        if fault is not None:
            title, told, is_useless = fault
            (self._report.leave_out if is_useless else self._report.warn)(title, row.number, column, told)
            return None if is_useless else value
        return value

    def _answer(self, row: Row) -> tuple[str | None, int | None]:
        """As its own column and perhaps one for where it begins, or as SQuAD's object with lists of both."""
        column = self._columns["answer"]
        value, start = row.values.get(column), row.values.get(self._columns.get("answer_start", ""))
        if isinstance(value, dict):
            value, start = _first(value.get("text")), _first(value.get("answer_start"))
        elif isinstance(value, list):
            value, start = _first(value), _first(start)
        answer = self._text(Row(row.number, {column: value}), "answer")
        if answer is None or start in (None, ""):
            return answer, None
        if (number := _whole_number(start)) is None:
            told = f"{quoted(str(start))} is no whole number; the answer is looked for instead"
            self._report.warn("answer_start is no number", row.number, self._start_column, told)
        return answer, number

    @property
    def _start_column(self) -> str:
        return self._columns.get("answer_start", self._columns["answer"])

    def _find(self, row: Row, context: str, answer: str, start: int | None) -> int | None:
        """Where the answer begins: as told where that is right, else the nearest place where it stands."""
        column = self._columns["answer"]
        places = [found.start() for found in re.finditer(re.escape(answer), context)]
        if start is not None and context[start : start + len(answer)] == answer and start >= 0:
            return start
        if not places:
            hint = ""
            if answer.strip().lower() in context.lower():
                hint = "; with other capitals or blanks it does"
            told = f"{quoted(answer)} does not stand in the context{hint}"
            self._report.leave_out("answers that are not in their context", row.number, column, told)
            return None
        if start is not None:
            place = _nearest(places, start)
            there = quoted(context[max(0, start) : max(0, start) + len(answer)])
            told = f"{there} stands at {start}; {quoted(answer)} at {place} is taken"
            self._report.warn("answer_start points elsewhere", row.number, self._start_column, told)
            return place
        if len(places) > 1:
            told = f"{quoted(answer)} stands {len(places)} times in the context; the first is taken"
            self._report.warn("answers that stand in several places", row.number, column, told)
        return places[0]


def _nearest(places: Sequence[int], wanted: int) -> int:
    after = bisect.bisect(places, wanted)
    return min(places[max(0, after - 1) : after + 1], key=lambda place: abs(place - wanted))


def _first(value: Any) -> Any:
    if isinstance(value, list):
        return value[0] if value else None
    return value


def _whole_number(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return value
    text = str(value).strip()
    return int(text.split(".")[0]) if re.fullmatch(r"-?\d{1,12}(\.0+)?", text) else None  # pandas writes 12.0
