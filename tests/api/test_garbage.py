"""Full collections wait for few requests in flight, and not for ever."""

import asyncio
import gc
from collections.abc import Callable

import pytest

from app import garbage


def scene(monkeypatch: pytest.MonkeyPatch, in_flight: Callable[[int], int], looks: int) -> list[int]:
    """At which looks, ten seconds apart, all was looked through; the first, at 0, is at the start."""
    number, collected = 0, list[int]()

    async def asleep(seconds: float) -> None:
        nonlocal number
        number += 1
        if number > looks:
            raise asyncio.CancelledError

    monkeypatch.setattr("asyncio.sleep", asleep)
    monkeypatch.setattr("time.monotonic", lambda: number * garbage.LOOK_SECONDS)
    monkeypatch.setattr("gc.collect", lambda: collected.append(number))
    before = gc.get_threshold()
    with pytest.raises(asyncio.CancelledError):
        asyncio.run(garbage.collect_when_quiet(lambda: in_flight(number)))
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0
    return collected


def test_a_quiet_service_is_looked_through_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert scene(monkeypatch, lambda _: garbage.FEW, 3) == [0, 1, 2, 3]


def test_a_busy_one_when_it_is_quiet_again_or_after_five_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    assert scene(monkeypatch, lambda look: 0 if look == 4 else garbage.FEW + 1, 40) == [0, 4, 35]


def test_meanwhile_the_interpreter_does_not_do_it_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def look(_: int) -> int:
        seen.append(gc.get_threshold()[2])
        return 0

    scene(monkeypatch, look, 1)
    assert seen[0] > 10**6
