"""When requests are sent, and what is counted, in a time that passes by itself."""

import asyncio
from collections.abc import Callable
from itertools import islice, pairwise
from pathlib import Path

import pytest

from app.bench.client import Request
from app.bench.load import Ask, Load
from app.bench.outcome import REFUSED, Outcome
from app.bench.plot import draw
from app.bench.summary import Level, percentile, spread, summarize
from app.bench.workload import arrivals, planned
from tests.bench import virtual

FAR = 10_000


def requests(count: int) -> list[Request]:
    return [Request({"n": number}, 10, 4) for number in range(count)]


def server(seconds: Callable[[int], float], failing: Callable[[int], str | None] = lambda n: None) -> Ask:
    """Answers the n-th request after so many seconds, in two pieces, at half of the time and at its end."""

    def clock() -> float:
        return asyncio.get_running_loop().time()

    async def ask(request: Request, moment: float | None) -> Outcome:
        sent, taken = clock(), seconds(request.body["n"])
        outcome = Outcome(
            sent if moment is None else moment, sent, request.prompt_tokens, request.output_tokens
        )
        await asyncio.sleep(taken / 2)
        outcome.pieces.append(clock())
        await asyncio.sleep(taken / 2)
        outcome.pieces.append(clock())
        outcome.end = clock()
        if kind := failing(request.body["n"]):
            outcome.fail(kind, f"words of {request.body['n']}")
        return outcome

    return ask


def closed(ask: Ask, count: int, clients: int, seconds: float | None = None) -> Load:
    load = Load(ask)
    virtual.run(load.closed(requests(count), clients, seconds))
    return load


def opened(ask: Ask, moments: list[float]) -> Load:
    load = Load(ask)
    virtual.run(load.open([Request({"n": n}, 10, 4, at) for n, at in enumerate(moments)]))
    return load


def test_a_closed_loop_keeps_as_many_in_flight_as_there_are_clients() -> None:
    load = closed(server(lambda n: 2.0), 6, clients=3)
    assert [one.sent - load.started for one in load.outcomes] == [0, 0, 0, 2, 2, 2]
    level = summarize(load, "concurrency", 3, {})
    assert level["seconds"] == 4
    assert level["in_flight"] == 3
    assert level["per_second"] == {"requests": 1.5, "input_tokens": 15, "output_tokens": 3}


def test_a_closed_loop_ends_after_its_time_with_what_is_in_flight() -> None:
    load = closed(server(lambda n: 2.0), FAR, clients=2, seconds=3.0)
    assert len(load.outcomes) == load.num_sent == 4
    assert load.seconds == 4


def test_a_client_that_was_refused_waits_as_it_was_told_but_not_for_long() -> None:
    async def ask(request: Request, moment: float | None) -> Outcome:
        now = asyncio.get_running_loop().time()
        outcome = Outcome(now, now, end=now, retry_after=[None, 0.5, 30.0, 0.0][request.body["n"]])
        outcome.fail(REFUSED, "full")
        return outcome

    load = closed(ask, 4, clients=1)
    assert [one.sent - load.started for one in load.outcomes] == pytest.approx([0, 0.1, 0.6, 1.6])
    assert load.seconds == pytest.approx(1.6)


def test_an_open_loop_sends_at_its_moments_whatever_the_server_does() -> None:
    load = opened(server(lambda n: 50.0), [0.5, 1.0, 1.0, 4.0])
    assert [one.sent - load.started for one in load.outcomes] == [0.5, 1.0, 1.0, 4.0]
    assert load.seconds == 54
    level = summarize(load, "rate", 1, {})
    assert level["end_to_end_s"] == {"mean": 50, "p50": 50, "p90": 50, "p99": 50, "max": 50}
    assert level["generator"]["lateness_s"]["max"] == 0
    assert level["generator"]["kept_up"]


def test_what_the_generator_sends_late_counts_from_the_moment_that_was_planned() -> None:
    async def blocked(request: Request, moment: float | None) -> Outcome:
        assert moment is not None
        now = asyncio.get_running_loop().time()
        return Outcome(moment, now + 3.0, pieces=[now + 4.0, now + 5.0], end=now + 5.0)

    load = opened(blocked, [1.0, 2.0])
    level = summarize(load, "rate", 1, {})
    assert level["ttft_s"]["p50"] == 4
    assert level["end_to_end_s"]["p50"] == 5
    assert level["generator"]["lateness_s"]["p50"] == 3
    assert not level["generator"]["kept_up"]


def test_what_was_measured_is_kept_when_it_is_interrupted() -> None:
    load = Load(server(lambda n: 1.0 if n < 5 else 60.0))

    async def interrupted() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(10):
                await load.closed(requests(FAR), 2)

    virtual.run(interrupted())
    level = summarize(load, "concurrency", 2, {})
    assert level["requests"] == {"sent": 7, "ok": 5, "refused": 0, "failed": 0, "cut": 2}
    assert level["seconds"] == 10


def test_refusals_failures_and_answers_are_counted_each_for_itself() -> None:
    kinds = {1: REFUSED, 2: "HTTP 500", 3: "timeout", 4: "timeout"}
    level = summarize(opened(server(lambda n: n + 2.0, kinds.get), [0.0] * 6), "rate", 6, {})
    assert level["requests"] == {"sent": 6, "ok": 2, "refused": 1, "failed": 3, "cut": 0}
    assert level["failures"] == [
        {"kind": "timeout", "count": 2, "message": "words of 3"},
        {"kind": "HTTP 500", "count": 1, "message": "words of 2"},
    ]
    assert level["refusal_s"]["max"] == 3
    assert level["end_to_end_s"]["max"] == 7
    assert level["tokens"]["output"] == 4
    assert level["tokens"]["input"] == 20


def outcome(pieces: list[float], tokens: int | None = None) -> Outcome:
    return Outcome(0.0, 0.0, 10, 4, end=pieces[-1], pieces=pieces, output_tokens=tokens)


def measured(outcomes: list[Outcome], objectives: dict[str, float]) -> Level:
    load = Load(server(lambda n: 0.0))
    load.outcomes, load.num_sent, load.ended = outcomes, len(outcomes), 10.0
    return summarize(load, "concurrency", 1, objectives)


def test_times_between_tokens_are_those_between_pieces_and_the_mean_is_by_tokens() -> None:
    level = measured([outcome([1.0, 2.0, 4.0], tokens=7), outcome([1.0])], {})
    assert level["inter_token_s"]["max"] == 2
    assert level["inter_token_s"]["mean"] == 1.5
    assert level["per_token_s"]["max"] == 0.5
    assert level["tokens"]["output"] == 8
    assert (level["tokens"]["counted_by_server"], level["tokens"]["counted_by_pieces"]) == (1, 1)


@pytest.mark.parametrize(
    ("objectives", "met"),
    [
        ({"ttft": 1.0}, 2),
        ({"ttft": 0.9}, 0),
        ({"itl": 1.0}, 1),
        ({"itl": 2.0}, 2),
        ({"tpot": 0.5}, 1),
        ({"e2e": 2.0}, 1),
        ({"e2e": 4.0, "ttft": 1.0}, 2),
    ],
)
def test_goodput_counts_the_answers_that_meet_every_objective(objectives: dict[str, float], met: int) -> None:
    refused = Outcome(0.0, 0.0)
    refused.fail(REFUSED, "")
    level = measured([outcome([1.0, 2.0, 4.0], 5), outcome([1.0, 2.0], 3), refused, refused], objectives)
    good = level["goodput"]
    assert good["met"] == met
    assert good["share"] == met / 4
    assert good["requests_per_second"] == met / 10
    if objectives == {"itl": 1.0}:
        assert good["output_tokens_per_second"] == 0.3


def test_levels_are_drawn_in_the_order_of_their_load(tmp_path: Path) -> None:
    loads = {count: closed(server(lambda n: 1.0), 4, count) for count in (4, 1, 2)}
    levels = [summarize(load, "concurrency", count, {}) for count, load in loads.items()]
    pictures: list[bytes] = []
    for order in (levels, sorted(levels, key=lambda level: float(level["load"]["value"]))):
        path = tmp_path / f"{len(pictures)}.svg"
        draw(order, "title", "details", path)
        pictures.append(path.read_bytes())
    assert pictures[0] == pictures[1]


def test_percentiles_lie_between_the_two_nearest() -> None:
    values = [1.0, 2.0, 3.0, 4.0, 5.0]
    assert [percentile(values, percent) for percent in (0, 50, 90, 100)] == pytest.approx([1, 3, 4.6, 5])
    assert percentile([7.0], 99) == 7
    assert spread([]) is None


def test_constant_arrivals_are_evenly_apart() -> None:
    assert list(islice(arrivals(4.0, "constant", 0, "x"), 4)) == [0, 0.25, 0.5, 0.75]


def test_poisson_arrivals_are_the_same_for_the_same_seed_and_have_the_rate() -> None:
    first = list(islice(arrivals(4.0, "poisson", 7, "x"), 4000))
    assert first == list(islice(arrivals(4.0, "poisson", 7, "x"), 4000))
    assert first != list(islice(arrivals(4.0, "poisson", 8, "x"), 4000))
    assert first == sorted(first)
    assert first[-1] == pytest.approx(1000, rel=0.05)
    gaps = [later - earlier for earlier, later in pairwise(first)]
    mean = sum(gaps) / len(gaps)
    assert sum((gap - mean) ** 2 for gap in gaps) / len(gaps) == pytest.approx(mean**2, rel=0.1)


def test_arrivals_end_by_number_or_by_time_whichever_is_first() -> None:
    def moments(count: int | None, seconds: float | None) -> list[float]:
        timed = planned(iter(requests(FAR)), arrivals(2.0, "constant", 0, "x"), count, seconds)
        return [request.at for request in timed]

    assert moments(3, None) == [0, 0.5, 1]
    assert moments(None, 2.0) == [0, 0.5, 1, 1.5]
    assert moments(3, 1.0) == [0, 0.5]
