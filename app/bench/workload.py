"""What is sent, and when: prompts of drawn lengths or from a file, one after the other or at moments. All by a seed."""

import itertools
import json
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from app.bench.client import Request
from app.bench.routes import Body
from app.bench.vocabulary import Vocabulary
from app.errors import ConfigError

Range = tuple[int, int]
_TRACE_FIELDS = {"prompt", "prompt_tokens", "output_tokens", "at", "body"}


@dataclass(frozen=True)
class Wanted:
    """One line of a trace, or one prompt: a text or its length in tokens; the rest may be left to the options."""

    prompt: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    at: float | None = None
    body: Body = field(default_factory=dict)
    """Fields of the request, over all others."""


def read_prompts(path: Path) -> list[Wanted]:
    """A prompt a line; empty ones are passed over. Raises ConfigError."""
    wanted = [Wanted(line) for line in _lines(path, "--prompts") if line.strip()]
    if not wanted:
        raise ConfigError(f"--prompts: {path} has no prompts")
    return wanted


def read_trace(path: Path) -> list[Wanted]:
    """JSON objects, one a line, in the order of their `at`. Raises ConfigError with the line that is wrong."""
    wanted = []
    for number, line in enumerate(_lines(path, "--trace"), 1):
        if line.strip():
            try:
                wanted.append(_wanted(json.loads(line)))
            except ValueError as error:
                raise ConfigError(f"--trace: {path}, line {number}: {error}") from None
    if not wanted:
        raise ConfigError(f"--trace: {path} has no requests")
    if len({one.at is None for one in wanted}) == 2:
        raise ConfigError(f"--trace: {path}: `at` is given for some requests and not for others")
    return sorted(wanted, key=lambda one: one.at or 0.0)


def _lines(path: Path, option: str) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{option}: cannot read {path}: {getattr(error, 'strerror', error)}") from None


def _wanted(line: Any) -> Wanted:
    if not isinstance(line, dict):
        raise ValueError("not a JSON object")
    if unknown := sorted(set(line) - _TRACE_FIELDS):
        raise ValueError(f"unknown field {unknown[0]!r}; known: {', '.join(sorted(_TRACE_FIELDS))}")
    for name, kinds, words in (
        ("prompt", (str,), "a text"),
        ("prompt_tokens", (int,), "a whole number from 1"),
        ("output_tokens", (int,), "a whole number from 1"),
        ("at", (int, float), "a number of seconds from 0"),
        ("body", (dict,), "a JSON object"),
    ):
        value = line.get(name)
        is_low = isinstance(value, int | float) and not (value >= 0 if name == "at" else value >= 1)
        if value is not None and (not isinstance(value, kinds) or isinstance(value, bool) or is_low):
            raise ValueError(f"{name} must be {words}, not {json.dumps(value)}")
    if line.get("at") is not None and not math.isfinite(line["at"]):
        raise ValueError("at must be finite")
    return Wanted(**{name: value for name, value in line.items() if value is not None})


@dataclass(frozen=True)
class Workload:
    """Makes requests without end, the same ones for the same seed; each level draws anew.

    `fill` makes a body of a prompt and the number of tokens wanted. `lines` stand in for synthetic prompts, again and
    again. No server finds what an earlier level asked for in its cache, unless the prompts are the user's.
    """

    fill: Callable[[str, int | None], Body]
    vocabulary: Vocabulary
    prompt_tokens: Range
    output_tokens: Range | None
    """None: answers are as long as they get."""
    seed: int
    lines: Sequence[Wanted] = ()

    def requests(self, level: object) -> Iterator[Request]:
        """As many as are taken."""
        chance = random.Random(f"{self.seed}/{level}/prompts")
        return (self._request(chance, line) for line in itertools.cycle(self.lines or [Wanted()]))

    def replayed(self) -> Iterator[Request]:
        """Each line once, at its own moment."""
        return itertools.islice(self.requests("trace"), len(self.lines))

    def _request(self, chance: random.Random, line: Wanted) -> Request:
        prompt, prompt_tokens, output_tokens = line.prompt, line.prompt_tokens, line.output_tokens
        if prompt is None:
            prompt_tokens = prompt_tokens or log_uniform(chance, self.prompt_tokens)
            prompt = self.vocabulary.prompt(chance, prompt_tokens)
        if output_tokens is None and self.output_tokens is not None:
            output_tokens = log_uniform(chance, self.output_tokens)
        return Request(
            self.fill(prompt, output_tokens) | line.body, prompt_tokens, output_tokens, line.at or 0.0
        )


def log_uniform(chance: random.Random, bounds: Range) -> int:
    """Bounds included; as many between 10 and 20 as between 100 and 200."""
    low, high = bounds
    drawn = math.exp(chance.uniform(math.log(low), math.log(high + 1)))
    return min(high, max(low, math.floor(drawn)))


def arrivals(rate: float, kind: str, seed: int, level: object) -> Iterator[float]:
    """Seconds from the start, without end: `constant` gaps, or `poisson`, as of independent users."""
    if kind == "constant":
        yield from (number / rate for number in itertools.count())
    chance, moment = random.Random(f"{seed}/{level}/arrivals"), 0.0
    while True:
        moment += chance.expovariate(rate)
        yield moment


def planned(
    requests: Iterator[Request], moments: Iterator[float], count: int | None, seconds: float | None
) -> Iterator[Request]:
    """At most `count` requests, each at its moment, those before `seconds`."""
    timed = zip(moments, requests, strict=False)
    for moment, request in itertools.islice(timed, count):
        if seconds is not None and moment >= seconds:
            return
        yield replace(request, at=moment)
