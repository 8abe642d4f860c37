"""Admission and accounts, without a process."""

from typing import Any

import pytest

from app.caller import Caller
from app.engine.journal import Journal
from app.engine.protocol import Answer, Encoded, EncodeRequest, Failed, GenerateRequest, Tokens
from app.engine.sampling_params import SamplingParams
from app.errors import InvalidRequest, Overloaded, QuartetError, Unavailable


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("app.engine.journal.time.monotonic", lambda: self.now)


def encode(tokens: int) -> EncodeRequest:
    return EncodeRequest(model="m", ids=[1] * tokens, output="embedding")


def test_the_time_to_wait_follows_the_speed_of_late(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    journal = Journal(max_requests=1000, max_tokens=1000)
    work(journal, clock, seconds=20)  # 10 tokens a second
    clock.now += 1000.0  # idle: that makes nobody slow
    journal.admit([encode(870)], lambda item: None)
    assert refused(journal, encode(40)) == 4.0
    assert refused(journal, encode(40)) == 7.0, "those who were told before come first"
    assert refused(journal, encode(800)) == 60.0
    clock.now += 100.0
    assert refused(journal, encode(126)) == 60.0, "nothing was done for so long"


def test_part_of_the_queue_is_kept_for_senders_who_hold_little() -> None:
    journal = Journal(max_requests=80, max_tokens=8000)
    journal.admit([encode(1)] * 60, lambda item: None, Caller("many"))
    journal.admit([encode(1)] * 10, lambda item: None, Caller("many"))
    for sender in ("many", "few"):
        with pytest.raises(Overloaded):
            journal.admit([encode(1)] * 11, lambda item: None, Caller(sender))
    with pytest.raises(Overloaded):
        journal.admit([encode(1)], lambda item: None, Caller("many"))
    journal.admit([encode(1)] * 9, lambda item: None, Caller("few"))
    journal.admit([encode(1)], lambda item: None, Caller("another"))
    with pytest.raises(Overloaded):
        journal.admit([encode(1)], lambda item: None, Caller("another"))
    with pytest.raises(InvalidRequest, match="70 and 7000"):
        journal.admit([encode(1)] * 71, lambda item: None, Caller("many"))


def work(journal: Journal, clock: Clock, seconds: int) -> None:
    """A sequence of 10 tokens each second."""
    for _ in range(seconds):
        (one,) = journal.admit([encode(10)], lambda item: None)
        clock.now += 1.0
        journal.deliver(answered(one.id))


def refused(journal: Journal, request: EncodeRequest) -> float | None:
    """When to come back."""
    with pytest.raises(Overloaded) as fault:
        journal.admit([request], lambda item: None)
    return fault.value.retry_after


def answered(request_id: int) -> Encoded:
    return Encoded(id=request_id, shape=[0], data=b"")


def test_every_request_ends_once() -> None:
    seen: list[Any] = []
    journal = Journal(max_requests=10, max_tokens=1000)
    params = SamplingParams(max_tokens=5)
    first, second, third = journal.admit(
        [GenerateRequest(model="m", prompt_ids=[1], params=params)] * 3, seen.append
    )
    assert journal.num_tokens == 18
    answers: list[Answer] = [
        Tokens(id=first.id, token_ids=[1]),
        Tokens(id=first.id, token_ids=[], finish_reason="stop"),
        Tokens(id=first.id, token_ids=[2]),  # late: nobody waits
        Failed(second.id, "internal", "x"),
        Failed(999, "internal", "nobody's"),
    ]
    for answer in answers:
        journal.deliver(answer)
    assert seen == [(0, answers[0]), (0, answers[1]), (1, answers[3])]
    assert not journal.release(first.id)
    assert list(journal.entries) == [third.id]
    error: QuartetError = Unavailable("gone")
    journal.fail_all(error)
    assert seen[3:] == [error]
    assert journal.num_tokens == 0
    journal.fail_all(error)
    assert len(seen) == 4
