"""What is noted of a request that is traced: by the engine's steps, by the journal, and when an engine dies."""

import asyncio
import itertools
from pathlib import Path
from typing import Any

import pytest

from app.caller import Caller, caller
from app.engine.journal import Journal
from app.engine.protocol import (
    Encoded,
    EncodeRequest,
    GenerateRequest,
    Hypotheses,
    Request,
    StepOutputs,
    Tokens,
)
from app.engine.sampling_params import SamplingParams
from app.errors import InvalidRequest
from app.timeline import Phase, Timeline
from tests.engine.test_client import request, run, started
from tests.engine.test_engine import folders, greedy, make_engine  # noqa: F401 - a fixture

ENCODE = EncodeRequest(model="m", ids=[1], output="embedding")


class Traced:
    """A journal whose clock is set by hand, and one request's timeline in it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, requests: list[Request]) -> None:
        self.now = 10.0
        monkeypatch.setattr("app.engine.journal.time.monotonic", lambda: self.now)
        self.journal = Journal(max_requests=100, max_tokens=100_000)
        self.timeline = Timeline()
        self.ids = [
            one.id
            for one in self.journal.admit(requests, lambda item: None, Caller("me", timeline=self.timeline))
        ]

    def step(self, now: float, *outputs: Any, **more: Any) -> None:
        self.now = now
        self.journal.receive(StepOutputs(list(outputs), **more))

    def phases(self, end: float) -> list[tuple[str, float, float]]:
        return [(phase.name, phase.start, phase.end) for phase in self.timeline.phases(end)]


def generate(**params: Any) -> GenerateRequest:
    return GenerateRequest(model="m", prompt_ids=[1], params=SamplingParams(**params))


def test_a_generation_waits_is_prefilled_and_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = Traced(monkeypatch, [generate()])
    [one] = traced.ids
    assert traced.phases(11.0) == [("queue", 10.0, 11.0)]
    traced.step(13.0, started=12.0, begun=[one])
    assert traced.phases(13.5) == [("queue", 10.0, 12.0), ("prefill", 12.0, 13.5)]
    traced.step(14.0, Tokens(id=one, token_ids=[5]), started=13.0)
    traced.step(15.0, Tokens(id=one, token_ids=[5]), preempted=[one, 999])
    assert traced.phases(15.5)[1:] == [("prefill", 12.0, 14.0), ("decode", 14.0, 15.5)]
    traced.step(16.0, Tokens(id=one, token_ids=[], finish_reason="stop"))
    assert traced.phases(20.0)[1:] == [("prefill", 12.0, 14.0), ("decode", 14.0, 16.0)]
    assert (traced.timeline.num_preemptions, traced.timeline.num_sequences) == (1, 1)


def test_one_token_is_no_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = Traced(monkeypatch, [generate(max_tokens=1)])
    [one] = traced.ids
    traced.step(14.0, Tokens(id=one, token_ids=[5], finish_reason="length"), started=12.0, begun=[one])
    assert traced.phases(20.0) == [("queue", 10.0, 12.0), ("prefill", 12.0, 14.0)]


def test_many_texts_are_one_encode_from_the_first_to_the_last(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = Traced(monkeypatch, [ENCODE] * 3)
    for number, one in enumerate(traced.ids):
        answer = Encoded(id=one, shape=[0], data=b"")
        traced.step(13.0 + number, answer, started=12.0 + number, begun=[one])
    assert traced.phases(20.0) == [("queue", 10.0, 12.0), ("encode", 12.0, 15.0)]
    assert traced.timeline.num_sequences == 3


def test_a_search_is_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = Traced(monkeypatch, [generate(num_beams=2)])
    [one] = traced.ids
    traced.step(14.0, Hypotheses(id=one, best=[]), started=12.0, begun=[one])
    assert traced.phases(20.0) == [("queue", 10.0, 12.0), ("search", 12.0, 14.0)]


def test_what_is_left_or_fails_ends_there(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = Traced(monkeypatch, [generate()])
    traced.now = 12.0
    traced.journal.release(traced.ids[0])
    traced.journal.release(traced.ids[0])
    assert traced.phases(20.0) == [("queue", 10.0, 12.0)]
    assert traced.timeline.num_open == 0


def test_what_the_queue_does_not_take_has_no_phases() -> None:
    timeline = Timeline()
    with pytest.raises(InvalidRequest):
        Journal(max_requests=1, max_tokens=1000).admit(
            [ENCODE, ENCODE], print, Caller("me", timeline=timeline)
        )
    assert timeline.phases(1.0) == []


def test_another_engine_is_noted_once_for_a_request_of_many(monkeypatch: pytest.MonkeyPatch) -> None:
    traced = Traced(monkeypatch, [ENCODE] * 3)
    traced.journal.admit([ENCODE], lambda item: None, Caller("nobody looks"))
    traced.now = 17.0
    traced.journal.note_restart()
    assert traced.timeline.restarts == [17.0]


def test_a_death_is_noted_and_the_phases_go_on() -> None:
    async def scene() -> None:
        async with started() as client:
            timeline = Timeline()
            caller.set(Caller("me", timeline=timeline))
            [answer] = await client.generate_many([request("die-midway", max_tokens=5)])
            assert answer.token_ids == [0, 1, 2, 3, 4]
            queue, prefill, decode = timeline.phases(0.0)
            assert isinstance(queue, Phase)
            assert [queue.name, prefill.name, decode.name] == ["queue", "prefill", "decode"]
            assert decode.start < timeline.restarts[0] < decode.end
            assert len(timeline.restarts) == 1

    run(asyncio.wait_for(scene(), 60))


def test_a_step_tells_when_it_began_and_whom_it_computed_first(folders: dict[str, Path]) -> None:  # noqa: F811
    clock = itertools.count(100.0)
    engine = make_engine({"llama": folders["llama"]}, kv_cache_memory=60_000, clock=clock.__next__)
    for number in range(4):
        engine.add(greedy(number, "llama", [5, 6, number], 60, ignore_eos=True))
    begun: list[int] = []
    preempted: list[int] = []
    last, num_preemptions = 100.0, 0
    while engine.has_work:
        step = engine.step()
        assert step.report is not None
        assert last < step.started < next(clock)
        last = step.started
        begun += step.begun
        preempted += step.preempted
        num_preemptions += step.report.preemptions
    assert sorted(begun) == [0, 1, 2, 3], "each once, though some were preempted"
    assert len(preempted) == num_preemptions > 0
    assert set(preempted) <= {1, 2, 3}
