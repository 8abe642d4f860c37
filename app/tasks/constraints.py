"""What a request says its text must be, as one constraint for the engine."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from app.engine.protocol import MAX_CONSTRAINT_BYTES, Constraint, ConstraintKind
from app.errors import InvalidRequest

_FIELDS: Mapping[str, tuple[ConstraintKind, Callable[[Any], str]]] = {
    "json_schema": ("json_schema", json.dumps),
    "response_format": ("json_schema", json.dumps),
    "regex": ("regex", str),
    "choice": ("choice", json.dumps),
    "grammar": ("grammar", str),
}
"""Request fields, of which one may be given; a response format's value is its schema."""


def make_constraint(given: Mapping[str, Any]) -> Constraint | None:
    """The constraint among a request's values, None where there is none. Raises InvalidRequest that names the field."""
    fields = [field for field in _FIELDS if field in given]
    if not fields:
        return None
    if len(fields) > 1:
        raise InvalidRequest(f"{fields[1]} is not given together with {fields[0]}", fields[1])
    (field,) = fields
    if given.get("num_beams", 1) > 1:
        raise InvalidRequest(f"{field} is not served together with num_beams above 1", field)
    kind, write = _FIELDS[field]
    try:
        text = write(given[field])
    except RecursionError:
        raise InvalidRequest(f"{field} is nested too deeply", field) from None
    if len(text.encode()) > MAX_CONSTRAINT_BYTES:
        raise InvalidRequest(f"{field} must not be over {MAX_CONSTRAINT_BYTES} bytes", field, "too_long")
    return Constraint(kind, text, field)
