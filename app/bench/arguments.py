"""The flags of `quartet bench`. A value that cannot be is refused here, by the name of its flag."""

import argparse
import json
import math
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from app.bench.connection import Site
from app.bench.routes import ROUTES
from app.bench.summary import OBJECTIVES

Number = TypeVar("Number", int, float)

_PICTURES = (".png", ".svg")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Under the names of `app.bench.options.Options`."""
    add = parser.add_argument_group("what is asked").add_argument
    add("--url", type=_site, default="http://127.0.0.1:8000", help="of the server (http://127.0.0.1:8000)")
    add("--route", choices=list(ROUTES), default="completions", help="what is asked for (completions)")
    add("--model", help="its name there (the first of /v1/models that can do it)")
    add("--api-key", metavar="KEY", help="sent as Authorization: Bearer (the environment's QUARTET_API_KEY)")
    add("--extra", type=_object, default={}, metavar="JSON", help="more fields for each request's body")
    add("--no-stream", dest="stream", action="store_false", default=True, help="whole answers")
    add("--stream", dest="stream", action="store_true", help="streams, where the route has them (yes)")
    add("--ignore-eos", action="store_true", help="texts go on until their length; not every server can")
    add("--insecure", action="store_true", help="https without looking at the certificate")

    group = parser.add_argument_group("how much, and when")
    add, load = group.add_argument, group.add_mutually_exclusive_group()
    load.add_argument(
        "--concurrency",
        type=_levels(_whole),
        metavar="N,…",
        help="clients, each with one request at a time (8)",
    )
    load.add_argument(
        "--rate", type=_levels(_positive), metavar="R,…", help="requests a second, whatever the server does"
    )
    add("--arrivals", choices=["poisson", "constant"], help="of --rate (poisson)")
    add("--requests", type=_whole, metavar="N", help="at each level (100, without --duration)")
    add("--duration", type=_positive, metavar="SECONDS", help="of sending, at each level")
    add("--warmup", type=_count, default=1, metavar="N", help="requests before, not counted (1)")
    add("--timeout", type=_positive, default=600.0, metavar="SECONDS", help="of a request (600)")
    add("--seed", type=_count, default=0, metavar="N", help="of lengths, words and arrivals (0)")

    group = parser.add_argument_group("prompts and lengths")
    add, source = group.add_argument, group.add_mutually_exclusive_group()
    add(
        "--prompt-tokens",
        type=_range,
        metavar="LOW:HIGH",
        help="synthetic, log-uniform (by route: 16:128, 32:256)",
    )
    add("--output-tokens", type=_range, metavar="LOW:HIGH", help="wanted of a text, log-uniform (16:128)")
    source.add_argument("--prompts", type=Path, metavar="FILE", help="one a line, in place of synthetic ones")
    source.add_argument(
        "--trace",
        type=Path,
        metavar="FILE",
        help="JSON lines with any of prompt, prompt_tokens, output_tokens, at, body",
    )

    add = parser.add_argument_group("what is told").add_argument
    add(
        "--slo", type=_objectives, default={}, metavar="ttft=S,…", help="objectives: " + ", ".join(OBJECTIVES)
    )
    add("--json", type=Path, dest="json_file", metavar="FILE", help="all numbers")
    add("--plot", type=_picture, metavar="FILE", help="latency and throughput against load, as .png or .svg")


def _site(text: str) -> Site:
    try:
        return Site.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _whole(text: str) -> int:
    return _number(text, int, lambda value: value >= 1, "a whole number from 1")


def _count(text: str) -> int:
    return _number(text, int, lambda value: value >= 0, "a whole number from 0")


def _positive(text: str) -> float:
    return _number(text, float, lambda value: 0 < value < math.inf, "a number above 0")


def _number(text: str, kind: Callable[[str], Number], fits: Callable[[Number], bool], words: str) -> Number:
    with suppress(ValueError):
        value = kind(text)
        if fits(value):
            return value
    raise argparse.ArgumentTypeError(f"{text!r} is not {words}")


def _levels(kind: Callable[[str], float]) -> Callable[[str], tuple[float, ...]]:
    def levels(text: str) -> tuple[float, ...]:
        values = tuple(kind(part.strip()) for part in text.split(","))
        if len(set(values)) < len(values):
            raise argparse.ArgumentTypeError(f"{text!r} names a level twice")
        return values

    return levels


def _range(text: str) -> tuple[int, int]:
    low, colon, high = text.partition(":")
    bounds = _whole(low), _whole(high if colon else low)
    if bounds[0] > bounds[1]:
        raise argparse.ArgumentTypeError(f"{text!r} begins above its end")
    return bounds


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"{text!r} is no JSON object")
    return value


def _objectives(text: str) -> dict[str, float]:
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, value = part.strip().partition("=")
        if name not in OBJECTIVES or name in found:
            raise argparse.ArgumentTypeError(
                f"{part!r} is not one of {', '.join(f'{one}=SECONDS' for one in OBJECTIVES)}, each once"
            )
        found[name] = _positive(value)
    return found


def _picture(text: str) -> Path:
    path = Path(text)
    if path.suffix.lower() not in _PICTURES:
        raise argparse.ArgumentTypeError(f"{text!r} ends in neither {' nor '.join(_PICTURES)}")
    return path
