"""`python -m benchmarks.json_schema_suite FOLDER`: texts that must fit the schemas of the JSON-Schema-Test-Suite.

FOLDER is its `tests/draft2020-12` (the source distribution of `jsonschema` has it under `json/`). A tiny random model
that speaks in bytes samples a text for each schema; what is whole must parse and be a value of its schema.
"""

import argparse
import json
import sys
import tempfile
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from tests.engine.constrained import make_engine, request, run, write_folder

MAX_TOKENS = 1024


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.json_schema_suite", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--optional", action="store_true", help="the folders below too")
    chosen = parser.parse_args(arguments)
    files = sorted(chosen.folder.rglob("*.json") if chosen.optional else chosen.folder.glob("*.json"))
    cases = [(file.stem, case["schema"]) for file in files for case in json.loads(file.read_bytes())]
    schemas = [schema if isinstance(schema, dict) else {"allOf": [schema]} for _, schema in cases]
    with tempfile.TemporaryDirectory() as folder:
        engine = make_engine(write_folder(Path(folder)), dtype="float32")
        requests = [
            request(i, "json_schema", schema, max_tokens=MAX_TOKENS) for i, schema in enumerate(schemas)
        ]
        outcome = run(engine, requests)
    wrong = Counter(
        fault
        for number, reason in outcome.reasons.items()
        if reason == "stop" and (fault := fault_of(outcome.text(number), schemas[number]))
    )
    refused = Counter(failed.message.split(": ")[-1][:60] for failed in outcome.failed.values())
    ends = Counter(outcome.reasons.values())
    served = sum(ends.values())
    print(f"{len(schemas)} schemas: {served} served, {len(outcome.failed)} refused")
    whole = ends["stop"] / served
    print(f"of those served {whole:.1%} whole within {MAX_TOKENS} tokens, {sum(wrong.values())} wrong")
    for count in (wrong, refused):
        print(*(f"  {number} x {what}" for what, number in count.most_common(12)), sep="\n")
    return 1 if wrong else 0


def fault_of(text: str, schema: dict[str, Any]) -> str | None:
    """Why a text is no value of the schema; None where it is one. Only what floats and decimals call a fault is one:
    by rounding 0.3 is no multiple of 0.1."""
    why = ""
    for parse_float in (float, Decimal):
        try:
            value = json.loads(text, parse_float=parse_float)
        except ValueError as fault:
            return f"{text!r}: {fault}"
        exact = json.loads(json.dumps(schema), parse_float=parse_float)
        first = next(Draft202012Validator(exact).iter_errors(value), None)
        if first is None:
            return None
        why = first.message
    return f"{text!r} of {json.dumps(schema)}: {why}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
