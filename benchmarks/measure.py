"""How a number is made: alternated runs, medians of paired ratios, the machine told, JSON and a table."""

import json
import platform
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import psutil


@dataclass(frozen=True)
class Options:
    """What a benchmark is run with: `pairs` alternated rounds, `serve` extra arguments for the service, whether it is
    to measure a checkpoint of half a billion parameters, where it can, and the folder of other engines."""

    pairs: int = 5
    is_full: bool = True
    serve: tuple[str, ...] = ()
    is_large: bool = False
    peers: Path = Path(".peers")


@dataclass(frozen=True)
class Claim:
    """One line of the table: a value against a bound, or ours against theirs as the median of paired ratios.

    `ours` and `theirs` are in `unit`, one value a round; with `theirs` empty `target` bounds the median from
    above, else it bounds the ratio from below.
    """

    what: str
    unit: str
    ours: Sequence[float]
    theirs: Sequence[float] = ()
    target: float | None = None

    @property
    def ratio(self) -> float | None:
        if not self.theirs:
            return None
        return median(a / b for a, b in zip(self.ours, self.theirs, strict=True))

    @property
    def is_met(self) -> bool | None:
        if self.target is None:
            return None
        ratio = self.ratio
        return median(self.ours) <= self.target if ratio is None else ratio >= self.target


@dataclass
class Report:
    """What one benchmark found; `details` holds whatever helps to read the claims."""

    name: str
    claims: list[Claim]
    details: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{self.name}.json"
        claims = [
            {
                "what": claim.what,
                "unit": claim.unit,
                "ours": [round(value, 4) for value in claim.ours],
                "theirs": [round(value, 4) for value in claim.theirs],
                "ratio": claim.ratio and round(claim.ratio, 3),
                "target": claim.target,
                "is_met": claim.is_met,
            }
            for claim in self.claims
        ]
        content = {"name": self.name, "machine": machine(), "claims": claims, "details": self.details}
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        return path

    def table(self) -> str:
        rows = [
            f"| {self.name} | unit | ours | theirs | ratio | target | met |",
            "|---|---|---|---|---|---|---|",
        ]
        for claim in self.claims:
            ratio = claim.ratio
            bound = "" if claim.target is None else f"{'≤' if ratio is None else '≥'} {claim.target:g}"
            cells = [
                claim.what,
                claim.unit,
                f"{median(claim.ours):.4g}",
                f"{median(claim.theirs):.4g}" if claim.theirs else "",
                "" if ratio is None else f"{ratio:.2f}",
                bound,
                {None: "", True: "yes", False: "no"}[claim.is_met],
            ]
            rows.append(f"| {' | '.join(cells)} |")
        return "\n".join(rows)


def alternate(runs: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Each run once for warming up, then `rounds` times by turns; every other round goes backwards."""
    for run in runs.values():
        run()
    values: dict[str, list[float]] = {name: [] for name in runs}
    for index in range(rounds):
        names = list(runs) if index % 2 == 0 else list(reversed(list(runs)))
        for name in names:
            values[name].append(runs[name]())
    return values


def machine() -> dict[str, Any]:
    """What a reader needs to place the numbers; no host name."""
    info: dict[str, Any] = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": psutil.cpu_count(logical=True),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load_average": [round(value, 2) for value in psutil.getloadavg()],
        "system": platform.system() + " " + platform.release(),
        "python": platform.python_version(),
        "commit": _commit(),
    }
    for package in ("torch", "transformers"):
        try:
            info[package] = version(package)
        except PackageNotFoundError:
            info[package] = None
    return info


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")


def _commit() -> str | None:
    try:
        run = subprocess.run(
            ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return run.stdout.strip()
