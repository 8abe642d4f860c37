"""`quartet bench`: sends load at one level after the other, then tells what clients would have felt.

Exit codes: 0, 1 when nothing was answered, 130 when it was interrupted (what was measured until then is told).
"""

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

from app.bench.connection import Fault
from app.bench.options import Options
from app.bench.run import Bench
from app.bench.table import table
from app.errors import ConfigError

NOTHING_ANSWERED, INTERRUPTED = 1, 130
JSON_SCHEMA = 1
"""Rises when a field of the file changes its meaning or goes."""


def run(version: str, **arguments: Any) -> int:
    """Prints the tables to stdout, everything else to stderr. Raises ConfigError before anything is sent."""
    options = Options(**arguments)
    bench = Bench(options, options.lines())
    try:
        asyncio.run(bench.run())
    except Fault as fault:
        _say(f"quartet: {options.url} cannot be measured: {fault}")
        return NOTHING_ANSWERED
    _tell(bench, options, version)
    if bench.is_interrupted:
        return INTERRUPTED
    return 0 if any(level["requests"]["ok"] for level in bench.levels) else NOTHING_ANSWERED


def _tell(bench: Bench, options: Options, version: str) -> None:
    """The tables, and the files that were asked for."""
    title, details = (
        f"{options.route} of {bench.model or 'the model'} at {options.url}",
        _details(bench, options),
    )
    print(
        title,
        details,
        "",
        table(bench.levels) if bench.levels else "nothing was measured",
        sep="\n",
        flush=True,
    )
    if options.json_file is not None:
        _write(options.json_file, "--json", json.dumps(_record(bench, options, version), indent=2) + "\n")
        _say(f"all numbers are in {options.json_file}")
    if options.plot is not None and bench.levels:
        from app.bench.plot import draw

        try:
            draw(bench.levels, title, details, options.plot)
        except OSError as error:
            raise ConfigError(f"--plot: cannot write {options.plot}: {error.strerror or error}") from None
        _say(f"the picture is {options.plot}")


def _details(bench: Bench, options: Options) -> str:
    """How it was asked."""
    parts = ["streamed" if options.is_streamed else "not streamed"]
    if options.prompts or options.trace:
        parts.append(f"prompts from {(options.prompts or options.trace or Path()).name}")
    else:
        by = "counted by its tokenizer" if bench.vocabulary.is_counted else "taken as words"
        parts.append(f"prompts of {_bounds(options.drawn_prompt_tokens)} tokens, {by}")
    if options.drawn_output_tokens is not None:
        parts.append(f"texts of {_bounds(options.drawn_output_tokens)}")
    return ", ".join([*parts, f"seed {options.seed}"])


def _bounds(bounds: tuple[int, int]) -> str:
    low, high = bounds
    return str(low) if low == high else f"{low} to {high}"


def _record(bench: Bench, options: Options, version: str) -> dict[str, Any]:
    return {
        "schema": JSON_SCHEMA,
        "quartet": version,
        "started": bench.started.isoformat(timespec="seconds"),
        "interrupted": bench.is_interrupted,
        "model": bench.model,
        "prompts_counted": bench.vocabulary.is_counted,
        "options": options.told(),
        "levels": bench.levels,
    }


def _write(path: Path, option: str, text: str) -> None:
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{option}: cannot write {path}: {error.strerror}") from None


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
