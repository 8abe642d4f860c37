"""How far a level is, told in lines where there is no terminal."""

import io

from app.bench.outcome import Outcome
from app.bench.progress import Progress, follow


class Clock:
    def __init__(self) -> None:
        self.now = 5.0

    def __call__(self) -> float:
        return self.now


def ended(progress: Progress, clock: Clock, times: int, seconds: float, failure: str | None = None) -> None:
    for _ in range(times):
        clock.now += seconds
        progress.ended(Outcome(0.0, 0.0, failure=failure))


def test_a_line_comes_every_ten_seconds_with_what_is_left() -> None:
    stream, clock = io.StringIO(), Clock()
    progress = follow("1/2 rate 4", 20, None, stream, clock)
    ended(progress, clock, 9, 1.0)
    assert stream.getvalue() == ""
    ended(progress, clock, 3, 2.0, "timeout")
    progress.close()
    assert stream.getvalue() == "1/2 rate 4: 10 of 20 requests, 1 not answered, 11 s left\n"


def test_with_a_time_and_no_number_the_time_counts_and_with_both_the_nearer_end() -> None:
    clock = Clock()
    timed, both = io.StringIO(), io.StringIO()
    for stream, count in ((timed, None), (both, 1000)):
        clock.now = 0.0
        ended(follow("x", count, 60.0, stream, clock), clock, 1, 12.0)
    assert timed.getvalue() == "x: 1 requests, 48 s left\n"
    assert both.getvalue() == "x: 1 of 1000 requests, 48 s left\n"


def test_a_terminal_gets_a_bar() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    progress = follow("1/1 concurrency 8", 2, None, stream)
    progress.ended(Outcome(0.0, 0.0, failure="timeout"))
    progress.ended(Outcome(0.0, 0.0))
    progress.close()
    assert "1/1 concurrency 8" in stream.getvalue()
    assert "0/2" in stream.getvalue()
