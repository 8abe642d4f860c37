"""A process that is told commands as lines of JSON and says how long each took: one side of `peers.engines.lines`."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parents[1]


class LineProcess:
    """A context manager, entered once it is ready; it sleeps on its input while others are measured.

    `environ` is added to this process's.
    """

    def __init__(self, command: Sequence[str], environ: Mapping[str, str] | None = None) -> None:
        self._command, self._environ = command, os.environ | (environ or {})

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=self._environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        self._read()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate(timeout=60)

    def ask(self, command: Mapping[str, object]) -> float:
        """Seconds of its work, the lines between the processes left out. Raises RuntimeError where it has ended."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        return float(self._read())

    def _read(self) -> str:
        """What stands behind the next line's `= `."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("= "):
                return line[2:].strip()
        raise RuntimeError(f"{' '.join(self._command)} ended")
