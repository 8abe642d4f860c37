"""Renders a chat template as `transformers` does, in jinja2's sandbox, and with limits. Imports nothing of ours.

A template comes with a checkpoint and is code. The sandbox keeps it from Python; the limits here end what runs too long
or writes too much. As a program it tries templates: `try_templates` of `chat_template` runs it.
"""

import json
import re
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import jinja2.ext
import jinja2.filters
import jinja2.nodes
import jinja2.parser
import jinja2.runtime
import jinja2.utils
from jinja2.exceptions import SecurityError
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

_BUDGET = " budget"
"""Where a rendering finds its budget; the blank keeps the name out of a template's reach."""

_MAX_EXPONENT = 64


class OverLimitError(Exception):
    """A template ran for too long, or wrote too much."""


class Budget:
    """What one rendering may take."""

    def __init__(self, seconds: float, max_chars: int) -> None:
        self._seconds, self._end = seconds, time.monotonic() + seconds
        self._max_chars, self._num_chars = max_chars, 0

    def check_time(self) -> None:
        if time.monotonic() > self._end:
            raise OverLimitError(f"the chat template did not end within {self._seconds:g} s")

    def check_size(self, num_chars: int) -> None:
        if num_chars > self._max_chars:
            raise OverLimitError(f"the chat template makes a text of over {self._max_chars} characters")

    def write(self, chunk: str) -> None:
        self.check_time()
        self._num_chars += len(chunk)
        self.check_size(self._num_chars)


def compile_template(source: str) -> jinja2.Template:
    """Raises jinja2.TemplateError for what is not a template."""
    environment = _Environment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, _Limits, jinja2.ext.loopcontrols]
    )
    environment.filters.update(
        tojson=_to_json, center=_center, format=_format, indent=_indent, replace=_replace
    )
    del environment.globals["lipsum"]
    environment.globals.update(
        raise_exception=_raise, strftime_now=_strftime_now, dict=_Dict(), namespace=_Namespace
    )
    return environment.from_string(source)


def render(template: jinja2.Template, variables: Mapping[str, Any], budget: Budget) -> str:
    """Raises OverLimitError, jinja2.TemplateError, or whatever the template's own mistakes raise."""
    chunks = []
    for chunk in template.generate({**variables, _BUDGET: budget}):
        budget.write(chunk)
        chunks.append(chunk)
    return "".join(chunks)


class _Environment(ImmutableSandboxedEnvironment):
    """Refuses the operators that make much of little."""

    intercepted_binops = frozenset(["*", "**", "+", "%"])

    def call_binop(self, context: jinja2.runtime.Context, operator: str, left: Any, right: Any) -> Any:
        budget = context.resolve(_BUDGET)
        if operator == "**" and (abs(left) > 1 << 32 or abs(right) > _MAX_EXPONENT):
            raise OverLimitError("the chat template makes too large a number")
        if operator == "*":
            sized, times = (left, right) if hasattr(left, "__len__") else (right, left)
            if hasattr(sized, "__len__") and isinstance(times, int):
                budget.check_size(len(sized) * times)
        if operator == "+" and hasattr(left, "__len__") and hasattr(right, "__len__"):
            budget.check_size(len(left) + len(right))
        if operator == "%" and isinstance(left, str):
            _check_form(left)
        return super().call_binop(context, operator, left, right)

    def call(self, context: jinja2.runtime.Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
        # padding, formatting and replacing can make gigabytes of a line
        owner = getattr(function, "__self__", None)
        if isinstance(owner, str):
            context.resolve(_BUDGET).check_size(_grown(owner, function.__name__, args))
        return super().call(context, function, *args, **kwargs)

    def wrap_str_format(self, value: Any) -> Any:
        owner = getattr(value, "__self__", None)
        if isinstance(owner, str):
            _check_form(owner)
        return super().wrap_str_format(value)

    def _parse(self, source: str, name: str | None, filename: str | None) -> jinja2.nodes.Template:
        tree = super()._parse(source, name, filename)
        _Instrument(self.extensions[_Limits.identifier]).visit(tree)
        return tree


def _check_form(form: str) -> None:
    """Refuses a width that would make a line of gigabytes, or that only the arguments tell."""
    if re.search(r"%[-+ #0]*(?:\d{4,}|[\d.]*\*|\d*\.\d{4,})|\{[^{}]*(?:\{|:[^{}]*\d{4,})", form):
        raise SecurityError("chat templates do not format with such widths")


def _grown(text: str, method: str, args: tuple[Any, ...]) -> int:
    """At most how long what a method of `text` returns is."""
    if method in ("center", "ljust", "rjust", "zfill", "expandtabs"):
        width = args[0] if args and isinstance(args[0], int) else 8
        return max(len(text), width if method != "expandtabs" else width * text.count("\t") + len(text))
    if method == "replace" and len(args) > 1 and isinstance(args[0], str) and isinstance(args[1], str):
        return len(text) + text.count(args[0]) * max(0, len(args[1]) - len(args[0]))
    return len(text)


class _Generation(jinja2.ext.Extension):
    """`{% generation %}` marks the answer for training; here its body is all that counts."""

    tags = {"generation"}  # noqa: RUF012 - jinja2's own declaration

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.Scope(body, lineno=line)


class _Limits(jinja2.ext.Extension):
    """What instrumented templates call."""

    def tick(self, context: jinja2.runtime.Context) -> str:
        context.resolve(_BUDGET).check_time()
        return ""

    def joined(self, context: jinja2.runtime.Context, *parts: Any) -> str:
        texts = [str(part) for part in parts]
        context.resolve(_BUDGET).check_size(sum(map(len, texts)))
        return "".join(texts)


class _Instrument(NodeTransformer):
    """Each turn of a loop and each call of a macro looks at the clock; each `~` at the size."""

    def __init__(self, limits: jinja2.ext.Extension) -> None:
        self._limits = limits

    def visit_For(self, node: jinja2.nodes.For) -> jinja2.nodes.Node:  # noqa: N802 - jinja2's name
        return self._ticked(node)

    def visit_Macro(self, node: jinja2.nodes.Macro) -> jinja2.nodes.Node:  # noqa: N802
        return self._ticked(node)

    def visit_Concat(self, node: jinja2.nodes.Concat) -> jinja2.nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return self._call("joined", node.nodes, node.lineno)

    def _ticked(self, node: jinja2.nodes.For | jinja2.nodes.Macro) -> jinja2.nodes.Node:
        self.generic_visit(node)
        node.body.insert(0, jinja2.nodes.ExprStmt(self._call("tick", [], node.lineno), lineno=node.lineno))
        return node

    def _call(self, name: str, args: list[jinja2.nodes.Expr], line: int) -> jinja2.nodes.Call:
        context = jinja2.nodes.ContextReference(lineno=line)
        return self._limits.call_method(name, [context, *args], lineno=line)


class _Dict:
    """`dict` without the type behind it."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Namespace(jinja2.utils.Namespace):
    """A namespace that takes no name beginning with an underscore."""

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("_"):
            raise SecurityError(f"chat templates do not set {name!r}")
        super().__setitem__(name, value)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Without jinja2's escapes for HTML."""
    if isinstance(indent, int) and indent > 16:
        raise SecurityError("chat templates do not indent by more than 16")
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _center(text: Any, width: int = 80) -> str:
    return str(text).center(min(width, 1000))


def _format(form: Any, *args: Any, **kwargs: Any) -> str:
    _check_form(str(form))
    return jinja2.filters.do_format(str(form), *args, **kwargs)


def _indent(text: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    if (width if isinstance(width, int) else len(width)) > 100:
        raise SecurityError("chat templates do not indent by more than 100")
    return jinja2.filters.do_indent(str(text), width, first, blank)


@jinja2.pass_context
def _replace(context: jinja2.runtime.Context, text: Any, old: Any, new: Any, count: int | None = None) -> str:
    context.resolve(_BUDGET).check_size(_grown(str(text), "replace", (str(old), str(new))))
    return str(text).replace(str(old), str(new), -1 if count is None else count)


def _raise(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(form: str) -> str:
    return datetime.now(UTC).astimezone().strftime(form)


def _try() -> str:
    """One line on what is wrong with the templates that stdin gives, "" for nothing."""
    task = json.load(sys.stdin)
    for source in task["sources"]:
        template = compile_template(source)
        for variables in task["chats"]:
            try:
                render(template, variables, Budget(task["seconds"], task["max_chars"]))
            except (OverLimitError, SecurityError, MemoryError, RecursionError) as fault:
                return f"{fault}" or type(fault).__name__
            except Exception:  # a template may refuse a chat; that is no fault
                continue
    return ""


if __name__ == "__main__":
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
    try:
        answer = _try()
    except Exception as error:  # not a template
        answer = f"{error}" or type(error).__name__
    sys.stdout.write(answer.replace("\n", " "))
