"""The client when its engine process dies or hangs: what is in flight goes on in the next one."""

import asyncio
import os
import signal
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.engine.client import Patience
from app.engine.protocol import AdapterSpec, EncodeRequest, ModelSpec
from app.errors import EngineFailed, EngineFault, Unavailable
from tests.engine.test_client import Observed, engine_processes, generated, request, run, started, until

QUICK = Patience(silence=1.0)


def engine_process() -> psutil.Process:
    [child] = engine_processes()
    return child


def test_a_killed_engine_costs_nobody_an_answer() -> None:
    async def scene() -> None:
        observed = Observed()
        async with started(observed) as client:
            many = asyncio.create_task(client.generate_many([request("hold"), request("hold", max_tokens=5)]))
            text = asyncio.create_task(
                client.encode(EncodeRequest(model="hold", ids=[1, 2], output="embedding"))
            )
            await until(lambda: client.num_requests == 3)
            engine_process().kill()
            await until(lambda: not client.is_ready)
            late = asyncio.create_task(generated(client, request("hold")))  # comes while there is no engine
            await until(lambda: client.is_ready and client.num_requests == 4)
            assert await generated(client, request("release")) == [0, 1, 2]
            assert [answer.token_ids for answer in await many] == [[0, 1, 2], [0, 1, 2, 3, 4]]
            assert (await text).shape == [2]
            assert await late == [0, 1, 2]
            assert observed.restarts == 1
            assert client.num_requests == client.num_tokens == 0

    run(scene())


@pytest.mark.parametrize("fault", ["die-midway", "hang-midway"])
def test_a_stream_goes_on_where_it_stopped(fault: str) -> None:
    async def scene() -> None:
        observed = Observed()
        async with started(observed, patience=QUICK) as client:
            one = request(fault, max_tokens=6, logprobs=0, prompt_logprobs=0)
            answers = [answer async for answer in client.generate(one)]
            assert [token_id for answer in answers for token_id in answer.token_ids] == [0, 1, 2, 3, 4, 5]
            assert sum(len(answer.logprobs or ()) for answer in answers) == 6
            assert [answer.finish_reason for answer in answers][-1] == "length"
            assert sum(answer.queue_duration is not None for answer in answers) == 1
            # of its prompt is told with the first tokens, and not again by the second engine
            assert sum(len(answer.prompt_logprobs or ()) for answer in answers) in (1, 2)
            assert observed.restarts == 1
        seeds = {report.waiting["seed"] for report in observed.reports}
        assert len(seeds) == 1

    run(scene())


def test_an_engine_that_is_stopped_is_replaced_even_when_idle() -> None:
    async def scene() -> None:
        async with started(patience=QUICK) as client:
            stopped = engine_process()
            os.kill(stopped.pid, signal.SIGSTOP)
            await until(lambda: not client.is_ready)
            await until(lambda: client.is_ready)
            assert engine_process().pid != stopped.pid
            assert await generated(client, request()) == [0, 1, 2]

    run(scene())


def test_a_step_that_was_to_take_long_is_given_its_time() -> None:
    async def scene() -> None:
        observed = Observed()
        async with started(observed, patience=Patience(silence=0.3)) as client:
            assert await generated(client, request("slow")) == [0, 1, 2]
            assert observed.restarts == 0

    run(scene())


@pytest.mark.parametrize("poison", ["die", "garbage", "oversize"])
def test_poison_is_found_by_trying_it_alone_and_is_then_refused(poison: str) -> None:
    async def scene() -> None:
        observed = Observed()
        async with started(observed, patience=Patience(max_failures=2)) as client:
            held = asyncio.create_task(generated(client, request("hold")))
            await until(lambda: client.num_requests == 1)
            with pytest.raises(EngineFault) as fault:
                await generated(client, request(poison))
            assert fault.value.retryable is False
            with pytest.raises(EngineFault, match="refused"):
                await generated(client, request(poison))
            await until(lambda: client.is_ready)
            assert observed.restarts == 3
            assert await generated(client, request("release")) == [0, 1, 2]
            assert await held == [0, 1, 2]
            assert client.num_requests == client.num_tokens == 0

    run(scene())


def test_an_engine_that_does_not_come_back_in_time_is_told_to_who_waits(tmp_path: Path) -> None:
    async def scene() -> None:
        device = f"ready-once:{tmp_path / 'mark'}"
        async with started(device=device, patience=Patience(recovery=0.05)) as client:
            held = asyncio.create_task(generated(client, request("hold")))
            await until(lambda: client.num_requests == 1)
            engine_process().kill()
            with pytest.raises(Unavailable) as refused:
                await held
            assert refused.value.code == "restarting"
            with pytest.raises(Unavailable):
                await generated(client, request())
            assert client.num_requests == 0

    run(scene())


def test_questions_that_no_engine_is_left_to_answer_are_answered(tmp_path: Path) -> None:
    """Asked of a process that has stopped, or while there is none."""

    async def scene() -> None:
        device = f"ready-once:{tmp_path / 'mark'}"
        async with started(device=device, patience=Patience(recovery=1.0)) as client:

            def ask() -> list[asyncio.Task[Any]]:
                model, adapter = ModelSpec("m:1", "/x"), AdapterSpec("a:1", "m", "/x")
                questions: list[Coroutine[Any, Any, Any]] = [client.trace(1), client.unload("m")]
                questions += [client.load_model(model), client.load_adapter(adapter)]
                return [asyncio.create_task(question) for question in questions]

            os.kill(engine_process().pid, signal.SIGSTOP)
            early = ask()
            await asyncio.sleep(0)
            engine_process().kill()
            await until(lambda: not client.is_ready)
            await until(lambda: early[0].done())
            late = ask()
            for asked in (*early, *late):
                with pytest.raises(Unavailable) as refused:
                    await asked
                assert refused.value.code == "restarting"
            with pytest.raises(Unavailable):
                await client.unload("m")

    run(scene())


def test_a_start_that_takes_too_long_counts_as_failed(tmp_path: Path) -> None:
    async def scene() -> None:
        observed = Observed()
        patience = Patience(start=2.5, max_failures=1)
        async with started(observed, device=f"ready-once:{tmp_path / 'mark'}", patience=patience) as client:
            held = asyncio.create_task(generated(client, request("hold")))
            await until(lambda: client.num_requests == 1)
            engine_process().kill()
            with pytest.raises(EngineFailed, match="ended 2 times"):
                await client.wait_lost()
            with pytest.raises(Unavailable):
                await held
            assert not client.is_ready
            assert engine_processes() == []

    run(scene())
