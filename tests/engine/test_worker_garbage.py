"""When the worker looks through all objects: when it is idle, and amid work only where it has not for long."""

import gc

import pytest

from app.engine.framing import encode_frame
from app.engine.protocol import Heartbeat, StepOutputs
from app.engine.worker import IDLE_BEATS, Channel, serve
from tests.engine.test_worker import FakeEngine, generate, in_thread


@pytest.mark.parametrize(("most_seconds", "after_a_step"), [(300.0, []), (-1.0, ["look"])])
def test_a_worker_looks_when_it_is_idle_or_has_not_for_long(
    most_seconds: float, after_a_step: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    before = gc.get_threshold()

    class Watched(FakeEngine):
        def step(self) -> StepOutputs:
            looks.append(f"step, {gc.get_threshold()[2] > 10**6}")
            return super().step()

    monkeypatch.setattr("app.garbage.MOST_SECONDS", most_seconds)
    monkeypatch.setattr("gc.collect", lambda: looks.append("look"))
    monkeypatch.setattr("app.engine.worker.release_free", lambda: looks.append("idle"))
    with in_thread(lambda sock: serve(Channel(sock), Watched(), heartbeat=0.001)) as (peer, _):
        peer.send(generate(1, max_tokens=3))
        assert [next(peer.outputs()).id for _ in range(3)] == [1, 1, 1]
        for _ in range(3 * IDLE_BEATS):
            peer.sock.recv(len(encode_frame(Heartbeat())))
    assert looks == ["look", *3 * ["step, True", *after_a_step], "look", "idle"]
    assert gc.get_threshold() == before
