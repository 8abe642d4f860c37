"""The numbers of all levels, for people: two tables, and below them what must be known to read them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app.bench.summary import PERCENTS, Level

_TOO_SHORT = 0.95
"""Of the wanted length, from which on it is said that answers were shorter."""
_TIMES = (
    ("ttft_s", "to first token, ms", 1000.0),
    ("inter_token_s", "between tokens, ms", 1000.0),
    ("end_to_end_s", "end to end, ms", 1000.0),
)


def table(levels: Sequence[Level]) -> str:
    """Lines without an end of line behind the last one."""
    lines = [*_aligned(_counts(levels))]
    if any(level["end_to_end_s"] for level in levels):
        lines += ["", *_aligned(_latencies(levels), num_heads=2)]
    if notes := [*_notes(levels)]:
        lines += ["", *notes]
    return "\n".join(lines)


def name(level: Level) -> str:
    """Of a level: how much of what."""
    kind, value = level["load"]["kind"], level["load"]["value"]
    return {
        "concurrency": f"{value} clients" if value != 1 else "1 client",
        "rate": f"{value:g}/s" if kind == "rate" else "",
        "trace": "trace",
    }[str(kind)]


def _counts(levels: Sequence[Level]) -> Iterator[list[str]]:
    has_texts = any(level["tokens"]["output"] for level in levels)
    has_goodput = any(level["goodput"] for level in levels)
    rates_told = ("requests", "input_tokens", *(["output_tokens"] if has_texts else []))
    yield [
        *("load", "ok", "refused", "failed", "requests/s", "input tok/s"),
        *(["output tok/s"] if has_texts else []),
        *("in flight", *(["goodput/s", "met"] if has_goodput else [])),
    ]
    for level in levels:
        requests, rates = level["requests"], level["per_second"]
        row = [name(level), *(f"{requests[key]:,}" for key in ("ok", "refused", "failed"))]
        row += [number(rates[key]) for key in rates_told]
        row.append(number(level["in_flight"]))
        if good := level["goodput"]:
            row += [number(good["requests_per_second"]), f"{100 * good['share']:.0f} %"]
        yield row


def _latencies(levels: Sequence[Level]) -> Iterator[list[str]]:
    times = [one for one in _TIMES if any(level[one[0]] for level in levels)]
    yield ["", *(cell for _, title, _ in times for cell in (title, *[""] * (len(PERCENTS) - 1)))]
    yield ["load", *(f"p{percent}" for _ in times for percent in PERCENTS)]
    for level in levels:
        row = [name(level)]
        for key, _, factor in times:
            spread = level[key]
            row += [number(factor * spread[f"p{p}"]) if spread else "-" for p in PERCENTS]
        yield row


def number(value: float) -> str:
    """Three digits or more."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _aligned(rows: Iterator[list[str]], num_heads: int = 1) -> Iterator[str]:
    """The first column to the left, the others to the right; a title over several columns spreads over them."""
    table = list(rows)
    plain = table[num_heads - 1 :]
    widths = [max(len(row[column]) for row in plain) for column in range(len(table[0]))]
    for title in table[: num_heads - 1]:
        groups = [place for place, cell in enumerate(title) if cell]
        for start, end in zip(groups, [*groups[1:], len(title)], strict=True):
            missing = len(title[start]) - sum(widths[start:end]) - 2 * (end - start - 1)
            widths[start] += max(0, missing) + 2
        line = " " * widths[0]
        for start, end in zip(groups, [*groups[1:], len(title)], strict=True):
            line += "  " + title[start].rjust(sum(widths[start:end]) + 2 * (end - start - 1))
        yield line
    for row in plain:
        first, *rest = (
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        yield "  ".join([first, *rest]).rstrip()


def _notes(levels: Sequence[Level]) -> Iterator[str]:
    yield from _counting(levels)
    yield from _lengths(levels)
    for level in levels:
        for failure in level["failures"]:
            yield f"{name(level)}: {failure['count']} × {failure['kind']}: {failure['message']}"
        if refused := level["refusal_s"]:
            yield f"{name(level)}: refusals (429) came within {number(1000 * refused['p99'])} ms (p99)"
        if cut := level["requests"]["cut"]:
            yield f"{name(level)}: interrupted; {cut} in flight are not counted"
        if not level["generator"]["kept_up"]:
            yield f"{name(level)}: {_behind(level['generator'])}"
    if objectives := next((level["goodput"]["objectives_s"] for level in levels if level["goodput"]), None):
        told = ", ".join(f"{key} ≤ {value:g} s" for key, value in objectives.items())
        yield f"goodput: answers with {told}; met: their share of all requests"


def _behind(generator: Mapping[str, Any]) -> str:
    late = generator["lateness_s"]
    told = f"it sent {number(1000 * late['p99'])} ms late at p99 and used" if late else "it used"
    return (
        f"the generator could not keep up ({told} {100 * generator['processor_share']:.0f} % of a core): "
        "latencies are its own in part"
    )


def _counting(levels: Sequence[Level]) -> Iterator[str]:
    ok = sum(level["requests"]["ok"] for level in levels)
    by_server = sum(level["tokens"]["counted_by_server"] for level in levels)
    by_pieces = sum(level["tokens"]["counted_by_pieces"] for level in levels)
    output = sum(level["tokens"]["output"] for level in levels)
    pieces = sum(level["tokens"]["pieces"] for level in levels)
    if by_server:
        yield "tokens: as the server counts them" + (
            f" in {by_server} of {ok} answers" if by_server < ok else ""
        )
    if by_pieces:
        yield (
            f"tokens: the server told no usage in {by_pieces} of {ok} answers; pieces of the stream are counted, of "
            "which one may hold several tokens, and the prompts as they were asked for"
        )
    elif ok and by_server < ok:
        yield f"tokens: the server told no usage in {ok - by_server} of {ok} answers; prompts are taken as asked for"
    if by_server and pieces and output / pieces > 1.05:
        yield f"between tokens: between pieces of the stream, of {output / pieces:.2f} tokens each"


def _lengths(levels: Sequence[Level]) -> Iterator[str]:
    for kind, title in (("input", "prompts"), ("output", "texts")):
        told = [
            (level["tokens"][f"asked_{kind}_mean"], level["tokens"][kind] / level["requests"]["ok"])
            for level in levels
            if level["requests"]["ok"] and level["tokens"][f"asked_{kind}_mean"] is not None
        ]
        if not told:
            continue
        asked, came = (sum(values) / len(values) for values in zip(*told, strict=True))
        if kind == "input" and abs(came - asked) >= 0.05:
            yield f"{title}: {number(came)} tokens on average, where {number(asked)} were meant"
        elif kind == "output" and came < _TOO_SHORT * asked:
            yield (
                f"{title}: {number(came)} tokens on average, where {number(asked)} were allowed; "
                "--ignore-eos holds a server that knows it to the length"
            )
