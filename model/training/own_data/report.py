"""What is wrong with a data file: each fault with its row and column, all in one report. Knows no task."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Severity = Literal["refused", "left out", "warning"]
"""The whole file cannot be used; the row is not; it is, though something looks wrong."""
SHOWN = 5
"""Places that are told of each kind of fault."""
MOST_LEFT_OUT = 0.1
"""Where more rows than this share are unusable, the file is not what it is thought to be."""
_QUOTED = 60


@dataclass(frozen=True)
class Place:
    """`row` as an editor or a spreadsheet counts, 0 for the file as a whole."""

    row: int
    column: str
    told: str

    def __str__(self) -> str:
        where = [f"row {self.row}"] if self.row else []
        where += [f"column {self.column}"] if self.column else []
        return f"{', '.join(where)}: {self.told}" if where else self.told


@dataclass
class Finding:
    """All places of one kind of fault."""

    severity: Severity
    title: str
    places: list[Place] = field(default_factory=list)

    @property
    def rows(self) -> set[int]:
        """Those that have it."""
        return {place.row for place in self.places if place.row}


@dataclass
class Report:
    """One file's. `facts` are lines on what was found in order."""

    file: str
    facts: list[str] = field(default_factory=list)
    findings: dict[str, Finding] = field(default_factory=dict)
    num_rows: int = 0

    def refuse(self, title: str, told: str, row: int = 0, column: str = "") -> None:
        """The file cannot be used."""
        self._note("refused", title, Place(row, column, told))

    def leave_out(self, title: str, row: int, column: str, told: str) -> None:
        """This row cannot be used."""
        self._note("left out", title, Place(row, column, told))

    def warn(self, title: str, row: int, column: str, told: str) -> None:
        """This row is used as it is."""
        self._note("warning", title, Place(row, column, told))

    @property
    def is_refused(self) -> bool:
        """Whether there is no use in going on."""
        return any(finding.severity == "refused" for finding in self.findings.values())

    @property
    def left_out(self) -> set[int]:
        """The rows that are not used."""
        found = (finding.rows for finding in self.findings.values() if finding.severity == "left out")
        return set().union(*found)

    def weigh(self) -> None:
        """Refuses a file of which too much is left out."""
        bad = len(self.left_out)
        if self.num_rows and bad > MOST_LEFT_OUT * self.num_rows:
            told = f"{bad} of {self.num_rows} rows cannot be used, more than a tenth; see below which and why"
            self.refuse("too many faults", told)

    def lines(self) -> Iterator[str]:
        """For people: what stops, then what is left out, then what only looks wrong."""
        yield self.file
        yield from (f"  {fact}" for fact in self.facts)
        order = ("refused", "left out", "warning")
        for finding in sorted(self.findings.values(), key=lambda one: order.index(one.severity)):
            count = len(finding.rows)
            rows = f" ({count} row{'' if count == 1 else 's'})" if count else ""
            yield f"  {finding.severity}: {finding.title}{rows}"
            yield from (f"    {place}" for place in finding.places[:SHOWN])
            if len(finding.places) > SHOWN:
                yield f"    and {len(finding.places) - SHOWN} more"
        if not self.findings:
            yield "  no fault found"

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def _note(self, severity: Severity, title: str, place: Place) -> None:
        self.findings.setdefault(title, Finding(severity, title)).places.append(place)


def shown(path: Path) -> str:
    """A path as one would give it here: short where it is below."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def quoted(text: str) -> str:
    """A text of the data in a message: its beginning, on one line."""
    flat = " ".join(text.split())
    return repr(flat if len(flat) <= _QUOTED else flat[:_QUOTED] + "…")
