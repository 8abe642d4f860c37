"""The check of a data file before it is trained on: one report of all that is wrong, and the examples that are left."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from model.training.own_data.columns import Task, find_columns
from model.training.own_data.examples import Example, read_examples
from model.training.own_data.report import Report, quoted, shown
from model.training.own_data.table import read_table

FEWEST_ROWS: Mapping[Task, int] = {
    "classification": 10,
    "qa": 10,
    "translation": 10,
    "seq2seq": 10,
    "lm": 3,
}
_UNBALANCED = 20
_FREE_TEXT_LABELS = 20
"""Labels from which on it counts that most rows have one of their own."""
_ODD_RATIO = 4.0
_SHORT = 20
"""Characters of a pair below which its sides' lengths say nothing."""


def check_file(
    task: Task,
    path: Path,
    chosen: Mapping[str, str],
    encoding: str | None = None,
    is_held_out: bool = False,
) -> tuple[list[Example], Report]:
    """The usable examples of a file, each text once, and the report; where that refuses, no examples.

    `chosen` are columns by part, as told; `is_held_out` says that these rows are to be tested on only, of which a few
    of a few labels are enough. Raises FileNotFoundError.
    """
    report = Report(shown(path))
    table = read_table(path, report, encoding)
    columns = find_columns(task, table.columns, chosen, report) if table.columns else {}
    if report.is_refused:
        return [], report
    if not table.columns:
        report.refuse("no rows", "not one row can be read")
        report.weigh()
        return [], report
    unused = [name for name in table.columns if name not in columns.values()]
    told = ", ".join(part if part == name else f"{part} = {name}" for part, name in columns.items())
    report.facts.append(
        f"{report.num_rows} rows; columns: {told}" + (f"; not used: {', '.join(unused)}" if unused else "")
    )
    examples = read_examples(task, table, columns, report)
    if task == "classification":
        examples = _without_contradictions(examples, columns["label"], report)
    report.weigh()
    examples = _each_once(examples, report)
    if not is_held_out:
        _CHECKS[task](examples, columns, report)
    fewest = 1 if is_held_out else FEWEST_ROWS[task]
    if len(examples) < fewest:
        told = f"{len(examples)} usable rows; at least {fewest} are needed"
        report.refuse("too few rows", told)
    report.facts.append(f"{len(examples)} rows to {'test on' if is_held_out else 'train and test on'}")
    return ([] if report.is_refused else examples), report


def same_text(text: str) -> str:
    """What texts that differ in blanks only have in common."""
    return " ".join(text.split())


def _key(example: Example) -> tuple[str, ...]:
    return tuple(map(same_text, example.inputs))


def _without_contradictions(examples: Sequence[Example], column: str, report: Report) -> list[Example]:
    """One text under several labels: nobody can tell which is right, so none is used."""
    by_text: dict[tuple[str, ...], list[Example]] = defaultdict(list)
    for example in examples:
        by_text[_key(example)].append(example)
    bad: set[int] = set()
    for same in by_text.values():
        first = same[0]
        others = [other for other in same if other.output != first.output]
        if others:
            bad.update(example.row for example in same)
            told = f"{quoted(first.inputs[0])} is {first.output!r} here and {others[0].output!r} in row {others[0].row}"
            report.leave_out("one text under several labels", first.row, column, told)
            for other in same[1:]:
                told = f"{other.output!r}; see row {first.row}"
                report.leave_out("one text under several labels", other.row, column, told)
    return [example for example in examples if example.row not in bad]


def _each_once(examples: Sequence[Example], report: Report) -> list[Example]:
    """The first of equal rows, so that none is tested on that was trained on."""
    first: dict[tuple[str, ...], Example] = {}
    for example in examples:
        key = (*_key(example), same_text(example.output))
        if key in first:
            told = f"as row {first[key].row}; only that one is used"
            report.warn("rows that are there twice", example.row, "", told)
        else:
            first[key] = example
    return list(first.values())


def _check_labels(examples: Sequence[Example], columns: Mapping[str, str], report: Report) -> None:
    column = columns["label"]
    counts = Counter(example.output for example in examples)
    rows: dict[str, int] = {}
    for example in examples:
        rows.setdefault(example.output, example.row)
    if len(counts) == 1:
        told = f"every row is {next(iter(counts))!r}: there is nothing to tell apart"
        report.refuse("one label only", told, column=column)
    if len(counts) > max(_FREE_TEXT_LABELS, len(examples) // 2):
        told = (
            f"{len(counts)} labels in {len(examples)} rows: is it the right column? Name another with --label"
        )
        report.refuse("too many labels", told, column=column)
        return
    _check_spellings(rows, column, report)
    singles = [label for label, count in counts.items() if count < 3]
    for label in singles:
        told = f"{label!r} has {counts[label]} row{'s' * (counts[label] > 1)}: it is trained on, and never tested"
        report.warn("labels of one or two rows", rows[label], column, told)
    ordered = counts.most_common()
    if ordered:
        (most, largest), (least, smallest) = ordered[0], ordered[-1]
        if largest > _UNBALANCED * smallest:
            told = (
                f"{most!r} has {largest} rows and {least!r} {smallest}: the rare ones may never be answered"
            )
            report.warn("labels out of balance", rows[least], column, told)
        shown = ", ".join(f"{label} {count}" for label, count in ordered[:12])
        more = f", and {len(ordered) - 12} more" if len(ordered) > 12 else ""
        report.facts.append(f"{len(counts)} labels: {shown}{more}")


def _check_spellings(rows: Mapping[str, int], column: str, report: Report) -> None:
    spelled: dict[str, str] = {}
    for label in rows:
        plain = "".join(label.lower().replace("_", " ").replace("-", " ").split())
        other = spelled.setdefault(plain, label)
        if other != label:
            told = f"{label!r} beside {other!r} in row {rows[other]}: two labels as they stand"
            report.warn("labels spelled in several ways", rows[label], column, told)


def _check_pairs(examples: Sequence[Example], columns: Mapping[str, str], report: Report) -> None:
    """What a translation rarely is: its source again, or of quite another length than the others."""
    ratios = sorted(len(example.output) / len(example.inputs[0]) for example in examples)
    usual = ratios[len(ratios) // 2] if ratios else 1.0
    for example in examples:
        source, target = example.inputs[0], example.output
        if same_text(source) == same_text(target) and any(map(str.isalpha, source)):
            told = f"{quoted(target)} is the source again"
            report.warn("targets equal to their source", example.row, columns["target"], told)
        ratio = len(target) / len(source) / usual
        if len(source) + len(target) > _SHORT and not 1 / _ODD_RATIO < ratio < _ODD_RATIO:
            told = f"{len(source)} characters become {len(target)}: do the two belong together?"
            report.warn("pairs of odd lengths", example.row, columns["target"], told)


def _check_nothing(examples: Sequence[Example], columns: Mapping[str, str], report: Report) -> None:
    """Each row has been looked at, and no more is known of these."""


_CHECKS = {
    "classification": _check_labels,
    "qa": _check_nothing,
    "translation": _check_pairs,
    "seq2seq": _check_nothing,
    "lm": _check_nothing,
}


def check_lengths(
    lengths: Sequence[int],
    examples: Sequence[Example],
    column: str,
    limit: int,
    told_cut: str,
    report: Report,
) -> None:
    """Notes the examples of more than `limit` tokens; `told_cut` says what becomes of them."""
    for length, example in zip(lengths, examples, strict=True):
        if length > limit:
            told = f"{length} tokens, {limit} at most: {told_cut}"
            report.warn("texts that are too long", example.row, column, told)


def without_seen(train: Sequence[Example], held_out: Sequence[Example], report: Report) -> list[Example]:
    """The training examples that are not in another file for testing too."""
    seen = {_key(example): example.row for example in held_out}
    kept = []
    for example in train:
        if (row := seen.get(_key(example))) is None:
            kept.append(example)
        else:
            told = f"stands in row {row} of the file to test on; it is not trained on"
            report.leave_out("rows that are to be tested on", example.row, "", told)
    return kept
