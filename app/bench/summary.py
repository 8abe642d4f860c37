"""Numbers of what a level of load came to."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from app.bench.load import Load
from app.bench.outcome import REFUSED, Outcome

Level = dict[str, Any]
"""Ready for JSON; docs/benchmarking.md has its fields."""

PERCENTS = (50, 90, 99)
OBJECTIVES = ("ttft", "itl", "tpot", "e2e")

LATE_SECONDS, LATE_PART = 0.01, 0.05
"""The generator did not keep up when it sent later than both: seconds, and this part of the median latency."""
BUSY_PART = 0.9
"""Of one core, from which on the generator itself is what is measured."""


def percentile(values: Sequence[float], percent: float) -> float:
    """Between the two nearest, as numpy has it. `values` are in order, and there is one at least."""
    place = (len(values) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(values) - 1)
    return values[low] + (values[high] - values[low]) * (place - low)


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Mean, percentiles and the most; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    return {
        "mean": math.fsum(ordered) / len(ordered),
        **{f"p{percent}": percentile(ordered, percent) for percent in PERCENTS},
        "max": ordered[-1],
    }


def summarize(load: Load, kind: str, value: float | None, objectives: Mapping[str, float]) -> Level:
    """`kind` is concurrency, rate or trace, `value` how much of it; objectives are in seconds.

    Tokens and latencies are those of whole answers; rates are over the time from the start to the last answer.
    """
    done = [one for one in load.outcomes if one.failure is None]
    failed = [one for one in load.outcomes if one.failure not in (None, REFUSED)]
    refused = [one for one in load.outcomes if one.failure == REFUSED]
    seconds = load.seconds
    tokens = {
        "input": sum(one.counted_prompt_tokens for one in done),
        "output": sum(one.counted_output_tokens for one in done),
    }
    return {
        "load": {"kind": kind, "value": value},
        "seconds": seconds,
        "requests": {
            "sent": load.num_sent,
            "ok": len(done),
            "refused": len(refused),
            "failed": len(failed),
            "cut": load.num_sent - len(load.outcomes),
        },
        "failures": _failures(failed),
        "per_second": {
            "requests": _rate(len(done), seconds),
            "input_tokens": _rate(tokens["input"], seconds),
            "output_tokens": _rate(tokens["output"], seconds),
        },
        "in_flight": _rate(math.fsum(one.end - one.sent for one in load.outcomes), seconds),
        "tokens": tokens | _counting(done),
        "ttft_s": spread([one.ttft for one in done if one.ttft is not None]),
        "inter_token_s": spread([gap for one in done for gap in one.gaps]),
        "per_token_s": spread([one.per_token for one in done if one.per_token is not None]),
        "end_to_end_s": spread([one.end_to_end for one in done]),
        "refusal_s": spread([one.end_to_end for one in refused]),
        "goodput": _goodput(done, len(load.outcomes), seconds, objectives),
        "generator": _generator(load, done, is_open=kind != "concurrency"),
    }


def _rate(amount: float, seconds: float) -> float:
    return amount / seconds if seconds > 0 else 0.0


def _failures(failed: Sequence[Outcome]) -> list[dict[str, Any]]:
    """The kinds, the most frequent first, each with what the first one said."""
    first = {one.failure: one.message for one in reversed(failed)}
    counts = Counter(one.failure for one in failed)
    return [
        {"kind": kind, "count": count, "message": first[kind]}
        for kind, count in sorted(counts.items(), key=lambda entry: (-entry[1], str(entry[0])))
    ]


def _counting(done: Sequence[Outcome]) -> dict[str, Any]:
    """Who counted, in answers; what was asked for, a request, where that is known."""
    by_server = sum(one.output_tokens is not None or one.prompt_tokens is not None for one in done)
    by_pieces = sum(one.output_tokens is None and bool(one.pieces) for one in done)
    asked = [one.asked_prompt_tokens for one in done if one.asked_prompt_tokens is not None]
    wanted = [one.asked_output_tokens for one in done if one.asked_output_tokens is not None]
    return {
        "counted_by_server": by_server,
        "counted_by_pieces": by_pieces,
        "asked_input_mean": sum(asked) / len(asked) if asked else None,
        "asked_output_mean": sum(wanted) / len(wanted) if wanted else None,
        "pieces": sum(len(one.pieces) for one in done),
    }


def _goodput(
    done: Sequence[Outcome], num_ended: int, seconds: float, objectives: Mapping[str, float]
) -> dict[str, Any] | None:
    """Answers that met every objective, of all requests that ended."""
    if not objectives:
        return None
    met = [one for one in done if all(_meets(one, name, most) for name, most in objectives.items())]
    return {
        "objectives_s": dict(objectives),
        "met": len(met),
        "share": len(met) / num_ended if num_ended else 0.0,
        "requests_per_second": _rate(len(met), seconds),
        "output_tokens_per_second": _rate(sum(one.counted_output_tokens for one in met), seconds),
    }


def _meets(one: Outcome, name: str, most: float) -> bool:
    """What an answer does not have (gaps, of a single piece) cannot be too long, but a stream has a first piece."""
    if name == "itl":
        return all(gap <= most for gap in one.gaps)
    if name == "tpot":
        return one.per_token is None or one.per_token <= most
    taken = one.ttft if name == "ttft" else one.end_to_end
    return taken is not None and taken <= most


def _generator(load: Load, done: Sequence[Outcome], is_open: bool) -> dict[str, Any]:
    """How far the figures may be trusted. In a closed loop no request has a moment for which it could be late."""
    late = spread([one.lateness for one in load.outcomes]) if is_open else None
    firsts = sorted(one.end_to_end if one.ttft is None else one.ttft for one in done)
    most = max(LATE_SECONDS, LATE_PART * percentile(firsts, 50)) if firsts else LATE_SECONDS
    share = _rate(load.processor_seconds, load.seconds)
    return {
        "lateness_s": late,
        "processor_share": share,
        "kept_up": (late is None or late["p99"] <= most) and share < BUSY_PART,
    }
