"""Constraints as llguidance reads them, what a grammar may cost, and its faults in one line. Compiles nothing."""

import json
import re
from collections.abc import Callable, Mapping

from llguidance import LLParserLimits, regex_to_lark

from app.engine.protocol import Constraint, ConstraintKind

MAX_LEXER_STATES = 50_000
"""Of up to 2 kB each, kept with the compiled grammar."""
DEAD_END = "NoExtensionBias"
"""How llguidance's fault begins where nothing may follow and the text is not whole."""

# Last, so that a grammar's own options do not undo it: which of its tokens spell a text is the model's choice.
_OPTIONS = '\n%llguidance {"no_forcing": true}\n'
_JSON_STYLE = {"whitespace_pattern": " "}
"""At most one blank where JSON allows any: models that may write blanks for ever sometimes do."""
_MAX_FAULT = 300


class ConstraintError(ValueError):
    """A constraint that is refused; the message is for the client."""


def limits() -> LLParserLimits:
    """llguidance's own bounds of work, per compilation and per mask, with less memory and shorter messages."""
    return LLParserLimits(max_lexer_states=MAX_LEXER_STATES, verbose_errors=False)


def source(constraint: Constraint, *, has_blank: bool) -> str:
    """The constraint in llguidance's words; with `has_blank` there is one blank before the text."""
    body = _BODIES[constraint.kind](constraint.text) + _OPTIONS
    if not has_blank:
        return body
    grammars = [{"lark_grammar": 'start: " " @body' + _OPTIONS}, {"name": "body", "lark_grammar": body}]
    return json.dumps({"grammars": grammars})


def fault_line(message: str, kind: str = "grammar") -> str:
    """What is wrong, without the quoted source; the place in it only where the client wrote that source."""
    first, *others = message.splitlines() or [""]
    if kind != "grammar":
        first = re.sub(r"^(at )?\d+\(\d+\): ", "", first)
    parts = [first[:_MAX_FAULT], *(line[:_MAX_FAULT] for line in others if line.startswith("error: "))]
    return " ".join(part.strip() for part in parts)


def _json_schema(text: str) -> str:
    """A schema's own `x-guidance` counts more than our style."""
    schema = json.loads(text)
    return "start: %json " + json.dumps({"x-guidance": _JSON_STYLE, **schema})


def _regex(text: str) -> str:
    return f"start: /{regex_to_lark(text)}/"


def _choice(text: str) -> str:
    """One terminal, since a rule of many literals costs the parser a row each."""
    return "start: CHOICE\nCHOICE: " + " | ".join(json.dumps(one) for one in json.loads(text))


_BODIES: Mapping[ConstraintKind, Callable[[str], str]] = {
    "json_schema": _json_schema,
    "regex": _regex,
    "choice": _choice,
    "grammar": str,
}
