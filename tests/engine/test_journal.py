"""Admission and accounts, without a process."""

from typing import Any

import pytest

from app.engine.journal import Journal
from app.engine.protocol import Answer, EncodeRequest, Failed, GenerateRequest, Tokens
from app.engine.sampling_params import SamplingParams
from app.errors import Overloaded, QuartetError, Unavailable


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("app.engine.journal.time.monotonic", lambda: self.now)


def encode(tokens: int) -> EncodeRequest:
    return EncodeRequest(model="m", ids=[1] * tokens, output="embedding")


def test_the_time_to_wait_follows_the_rate_of_late(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    journal = Journal(max_requests=1000, max_tokens=1000)
    for _ in range(11):  # 10 tokens a second
        (done,) = journal.admit([encode(10)], lambda item: None)
        journal.release(done.id)
        clock.now += 1.0
    journal.admit([encode(950)], lambda item: None)
    with pytest.raises(Overloaded) as refused:
        journal.admit([encode(100)], lambda item: None)
    assert refused.value.retry_after == 5.0
    with pytest.raises(Overloaded) as refused:
        journal.admit([encode(990)], lambda item: None)
    assert refused.value.retry_after == 60.0
    clock.now += 1000.0  # what is long ago says nothing
    with pytest.raises(Overloaded) as refused:
        journal.admit([encode(990)], lambda item: None)
    assert refused.value.retry_after == 1.0


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
