"""Data files with something wrong in them: each fault is told with its row and its column."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from model.training.__main__ import main
from model.training.own_data.check import check_file
from model.training.own_data.columns import Task

GOOD = [(f"text number {i}", "ab"[i % 2]) for i in range(40)]


def table(*extra: tuple[str, ...], header: str = "text,label", good: int = 40) -> str:
    """A CSV: the header, the broken rows (from row 2 on), and rows without fault."""
    rows = [",".join(row) for row in (*extra, *GOOD[:good])]
    return "\n".join([header, *rows]) + "\n"


def lines(*first: Any, good: int = 40) -> str:
    """JSON lines: the broken ones (from row 1 on), and rows without fault; texts as they are."""
    objects = [{"text": text, "label": label} for text, label in GOOD[:good]]
    return "\n".join(one if isinstance(one, str) else json.dumps(one) for one in (*first, *objects)) + "\n"


def questions(*first: dict[str, Any]) -> str:
    good = [
        {
            "question": f"who is {i}?",
            "context": f"It is Ada {i} of London.",
            "answer": f"Ada {i}",
            "answer_start": 6,
        }
        for i in range(40)
    ]
    return "\n".join(json.dumps(one) for one in (*first, *good)) + "\n"


class Broken(NamedTuple):
    name: str
    task: Task
    content: str | bytes
    severity: str
    told: tuple[str, ...]
    suffix: str = ".csv"


CASES = [
    Broken("nothing", "classification", "", "refused", ("there is nothing in the file",)),
    Broken("header only", "classification", "text,label\n", "refused", ("0 usable rows",)),
    Broken("kind", "classification", table(), "refused", ("'.xlsx'",), ".xlsx"),
    Broken(
        "no such column",
        "classification",
        table(header="text,colour"),
        "refused",
        ("row 1, column label: ", "'text', 'colour'", "--label COLUMN"),
    ),
    Broken("column twice", "classification", table(header="text,text"), "refused", ("row 1, column text: 2",)),
    Broken("no text", "classification", table(("", "a")), "left out", ("row 2, column text: nothing in it",)),
    Broken("blank label", "classification", table(("x", " ")), "left out", ("row 2, column label: only blanks",)),
    Broken(
        "Latin-1",
        "classification",
        table(("good", "a"), ("caf@", "b")).replace("@", "é").encode("latin-1"),
        "left out",
        ("row 3, column text: byte 0xe9 at character 4 is not UTF-8", "--encoding"),
    ),
    Broken(
        "decoded twice",
        "classification",
        table(("the cafÃ© is shut", "a")),
        "warning",
        ("row 2, column text: ", "wrong encoding"),
    ),
    Broken(
        "control character",
        "classification",
        table(("a\x07bell", "a")),
        "warning",
        ("row 2, column text: control character 0x07 at character 2",),
    ),
    Broken(
        "unquoted comma",
        "classification",
        table(("one, two", "a")),
        "left out",
        ("row 2, column label: 3 fields where the header has 2", "quotation marks"),
    ),
    Broken("too narrow", "classification", table(("alone",)), "left out", ("row 2, column label: 1 field ",)),
    Broken("quote", "classification", table(('"never', "a")), "refused", ("row 2: from line 2 on", "never closed")),
    Broken(
        "twice",
        "classification",
        table(("text number 3", "b")),
        "warning",
        ("row 6: as row 2",),
    ),
    Broken(
        "contradiction",
        "classification",
        table(("text number 3", "a")),
        "left out",
        ("row 2, column label: 'text number 3' is 'a' here and 'b' in row 6", "row 6, column label: 'b'; see row 2"),
    ),
    Broken("one label", "classification", table(good=1) + "x,a\n" * 20, "refused", ("column label: every row is 'a'",)),
    Broken(
        "a label of one row",
        "classification",
        table(("only one", "rare")),
        "warning",
        ("row 2, column label: 'rare' has 1 row: it is trained on, and never tested",),
    ),
    Broken(
        "two spellings",
        "classification",
        table(("x", "Lost Card"), ("y", "lost_card")),
        "warning",
        ("row 3, column label: 'lost_card' beside 'Lost Card' in row 2",),
    ),
    Broken(
        "free text as label",
        "classification",
        table(*[(f"q{i}", f"answer {i}") for i in range(80)]),
        "refused",
        ("column label: 82 labels in 120 rows",),
    ),
    Broken(
        "out of balance",
        "classification",
        table(*[(f"q{i}", "big") for i in range(500)]),
        "warning",
        ("column label: 'big' has 500 rows and ",),
    ),
    Broken("too few", "classification", table(good=6), "refused", ("6 usable rows; at least 10",)),
    Broken(
        "too many faults",
        "classification",
        table(*[("", "a")] * 20),
        "refused",
        ("20 of 60 rows cannot be used", "row 2, column text"),
    ),
    Broken(
        "broken JSON",
        "classification",
        lines('{"text": "x", "label": }'),
        "left out",
        ("row 1: Expecting value at character 24",),
        ".jsonl",
    ),
    Broken("no object", "classification", lines([1]), "left out", ("row 1: a list, not an object",), ".jsonl"),
    Broken(
        "no text but a number",
        "classification",
        lines({"text": 7, "label": "a"}),
        "left out",
        ("row 1, column text: '7' is a int, not a text",),
        ".jsonl",
    ),
    Broken(
        "answer elsewhere",
        "qa",
        questions({"question": "q", "context": "It is Ada.", "answer": "Bob"}),
        "left out",
        ("row 1, column answer: 'Bob' does not stand in the context",),
        ".jsonl",
    ),
    Broken(
        "wrong start",
        "qa",
        questions({"question": "q", "context": "It is Ada.", "answer": "Ada", "answer_start": 2}),
        "warning",
        ("row 1, column answer_start: 'is' stands at 2; 'Ada' at 6 is taken",),
        ".jsonl",
    ),
    Broken(
        "start is a word",
        "qa",
        questions({"question": "q", "context": "It is Ada.", "answer": "Ada", "answer_start": "six"}),
        "warning",
        ("row 1, column answer_start: 'six' is no whole number",),
        ".jsonl",
    ),
    Broken(
        "answer in two places",
        "qa",
        questions({"question": "q", "context": "Ada and Ada.", "answer": "Ada"}),
        "warning",
        ("row 1, column answer: 'Ada' stands 2 times",),
        ".jsonl",
    ),
    Broken(
        "not translated",
        "translation",
        table(("the same words", "the same words"), header="source,target"),
        "warning",
        ("row 2, column target: 'the same words' is the source again",),
    ),
    Broken(
        "odd lengths",
        "translation",
        table(("a long source sentence of many words", "x"), *[(f"text {i}", f"Text {i}") for i in range(40)],
              header="source,target", good=0),
        "warning",
        ("row 2, column target: 36 characters become 1",),
    ),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_fault_is_told_with_its_place(case: Broken, tmp_path: Path) -> None:
    path = tmp_path / f"data{case.suffix}"
    path.write_bytes(case.content.encode() if isinstance(case.content, str) else case.content)
    examples, report = check_file(case.task, path, {})
    assert case.severity in [finding.severity for finding in report.findings.values()]
    for told in case.told:
        assert told in str(report)
    assert report.is_refused == (case.severity == "refused")
    assert bool(examples) != report.is_refused


def test_a_file_without_fault_has_none(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text(table())
    examples, report = check_file("classification", path, {})
    assert [(example.inputs[0], example.output) for example in examples] == GOOD
    assert not report.findings


def test_excel_and_its_neighbours_are_read(tmp_path: Path) -> None:
    plain = table()
    variants = {
        "semicolons.csv": plain.replace(",", ";").encode("utf-8-sig"),
        "tabs.tsv": plain.replace(",", "\t").encode(),
        "unicode text.tsv": plain.replace(",", "\t").encode("utf-16"),
        "lines.jsonl": lines().encode(),
        "windows.csv": plain.replace("\n", "\r\n").encode(),
        "blank first line.csv": ("\n" + plain.replace(",", ";")).encode(),
    }
    for name, content in variants.items():
        (tmp_path / name).write_bytes(content)
        examples, report = check_file("classification", tmp_path / name, {})
        assert [(example.inputs[0], example.output) for example in examples] == GOOD, name
        assert set(report.findings) <= {"blank rows"}


def test_squads_objects_and_quoted_line_breaks_keep_their_places(tmp_path: Path) -> None:
    squad = {"question": "q", "context": "It is Ada.", "answers": {"text": ["Ada"], "answer_start": [6]}}
    path = tmp_path / "squad.jsonl"
    path.write_text("\n".join([json.dumps(squad | {"question": f"q{i}"}) for i in range(10)]))
    examples, _ = check_file("qa", path, {})
    assert (examples[3].output, examples[3].start, examples[3].row) == ("Ada", 6, 4)
    path = tmp_path / "breaks.csv"
    path.write_text(table(('"two\nlines"', "a"), ("", "b")))
    examples, report = check_file("classification", path, {})
    assert examples[0].inputs == ("two\nlines",)
    assert "row 3, column text: nothing in it" in str(report)


def test_the_command_checks_and_does_no_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "data.csv"
    path.write_text(table(("", "a"), header="body,kind"))
    command = ["train", "--check", "--task", "classification", "--data", str(path)]
    assert main(command) == 2
    assert "name it with --label COLUMN" in capsys.readouterr().out
    assert main([*command, "--label", "kind"]) == 0
    told = capsys.readouterr().out
    assert "row 2, column body: nothing in it" in told
    assert [entry.name for entry in tmp_path.iterdir()] == ["data.csv"]
