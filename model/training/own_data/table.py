"""A data file as rows of values: CSV and TSV with a header, or JSON lines. Knows no task.

Rows are counted as spreadsheets and editors do: the header of a CSV is row 1, a JSON object's row is its line.
"""

import codecs
import csv
import hashlib
import io
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.training.own_data.report import Report, quoted

_DELIMITERS = ",;\t|"
_MOST_CHARACTERS = 2**24
"""Of one field."""
_BOMS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_NOT_DECODED = re.compile("[\udc80-\udcff]")
_SEEN_TWICE = re.compile("Ã[\x80-\xbf]|â€|Â[\xa0-\xbf]|\ufffd")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f]")


@dataclass(frozen=True)
class Row:
    """`values` by column; of JSON they may be of any type."""

    number: int
    values: Mapping[str, Any]


@dataclass(frozen=True)
class Table:
    """The rows that could be read."""

    columns: list[str] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)


def read_table(path: Path, report: Report, encoding: str | None = None) -> Table:
    """The file's rows; what cannot be read is noted in the report, with its row and column.

    Raises FileNotFoundError. `encoding` None: UTF-8, or UTF-16 where the file says so by its first bytes.
    """
    readers = {".csv": _read_csv, ".tsv": _read_tsv, ".jsonl": _read_json_lines}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        report.refuse(
            "not a known kind of file", f"its name ends in {path.suffix!r}, not .csv, .tsv or .jsonl"
        )
        return Table()
    text = _decode(path.read_bytes(), encoding, report)
    if not text.strip("\x00 \t\r\n\ufeff"):
        if not report.is_refused:
            report.refuse("empty", "there is nothing in the file")
        return Table()
    return reader(text, report)


def digest(path: Path) -> str:
    """SHA-256 of the file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def text_fault(text: str) -> tuple[str, str, bool] | None:
    """(title, what is wrong, whether the text is useless) of characters that are not what was written."""
    if found := _NOT_DECODED.search(text):
        byte = ord(found[0]) - 0xDC00
        told = f"byte 0x{byte:02x} at character {found.start() + 1} is not UTF-8"
        return "not decoded", f"{told}; where the file is in another encoding: --encoding cp1252", True
    if found := _SEEN_TWICE.search(text):
        around = text[max(0, found.start() - 12) : found.end() + 12]
        return "garbled characters", f"{quoted(around)} looks decoded by the wrong encoding", False
    if found := _CONTROL.search(text):
        told = f"control character 0x{ord(found[0]):02x} at character {found.start() + 1}"
        return "control characters", told, False
    return None


def _decode(data: bytes, encoding: str | None, report: Report) -> str:
    if encoding is None:
        encoding = next((name for bom, name in _BOMS.items() if data.startswith(bom)), "utf-8")
    try:
        if encoding.startswith("utf-8"):
            return data.decode(encoding, errors="surrogateescape")
        return data.decode(encoding)
    except LookupError:
        report.refuse("not decoded", f"there is no encoding {encoding!r}")
    except UnicodeDecodeError as fault:
        row = data.count(b"\n", 0, fault.start) + 1
        report.refuse("not decoded", f"not {encoding} from byte {fault.start + 1} on: {fault.reason}", row)
    return ""


def _read_csv(text: str, report: Report) -> Table:
    header = text.lstrip("\r\n").split("\n", 1)[0]
    counts = {delimiter: header.count(delimiter) for delimiter in _DELIMITERS}
    best = max(counts, key=lambda delimiter: counts[delimiter])
    return _read_delimited(text, best if counts[best] else ",", report)


def _read_tsv(text: str, report: Report) -> Table:
    return _read_delimited(text, "\t", report)


def _read_delimited(text: str, delimiter: str, report: Report) -> Table:
    csv.field_size_limit(_MOST_CHARACTERS)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: list[str] = []
    rows: list[Row] = []
    number, line = 0, 1
    try:
        for fields in reader:
            number, line = number + 1, reader.line_num + 1
            if not any(value.strip() for value in fields):
                report.warn("blank rows", number, "", "nothing in it")
                continue
            if not columns:
                columns = _header(fields, number, report)
                continue
            report.num_rows += 1
            if len(fields) == len(columns):
                rows.append(Row(number, dict(zip(columns, fields, strict=True))))
            else:
                _tell_width(fields, columns, number, report)
    except csv.Error as fault:
        told = f"{fault}: a quotation mark that is opened and never closed, or not doubled inside a text"
        if "field larger" in str(fault):
            told = str(fault)
        report.refuse("broken quotes", f"from line {line} on: {told}", number + 1)
    return Table(columns, rows)


def _header(fields: Sequence[str], number: int, report: Report) -> list[str]:
    columns = [name.strip() for name in fields]
    for name, count in Counter(columns).items():
        if count > 1:
            report.refuse("two columns of one name", f"{count} columns are called {name!r}", number, name)
    return columns


def _tell_width(fields: Sequence[str], columns: Sequence[str], number: int, report: Report) -> None:
    told = f"{len(fields)} field{'' if len(fields) == 1 else 's'} where the header has {len(columns)}"
    if len(fields) > len(columns):
        told += "; a text with the delimiter in it must stand in quotation marks"
        column = columns[-1]
    else:
        column = columns[len(fields)]
    report.leave_out("rows of another width than the header", number, column, told)


def _read_json_lines(text: str, report: Report) -> Table:
    rows: list[Row] = []
    columns: dict[str, None] = {}
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip("\ufeff \t\r"):
            continue
        report.num_rows += 1
        try:
            value = json.loads(line)
        except ValueError as fault:
            place = getattr(fault, "colno", 1)
            report.leave_out("not JSON", number, "", f"{getattr(fault, 'msg', fault)} at character {place}")
            continue
        except RecursionError:
            report.leave_out("not JSON", number, "", "nested too deeply")
            continue
        if not isinstance(value, dict):
            report.leave_out("not a JSON object", number, "", f"a {type(value).__name__}, not an object")
            continue
        columns |= dict.fromkeys(value)
        rows.append(Row(number, value))
    return Table(list(columns), rows)
