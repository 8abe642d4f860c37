"""The client against a fake engine process: streams, bounds, aborts, deaths, restarts, the end."""

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from app.engine.client import EngineClient, Patience
from app.engine.protocol import (
    AdapterSpec,
    EncodeRequest,
    GenerateRequest,
    Ready,
    Report,
    Tokens,
    WorkerConfig,
)
from app.engine.sampling_params import SamplingParams
from app.errors import ConfigError, EngineFailed, InvalidRequest, Overloaded, Unavailable

HERE = Path(__file__).parent
START = f"import sys; sys.path[:0] = [{str(HERE.parents[1])!r}, {str(HERE)!r}]; import fake_worker; fake_worker.main()"
FAKE_WORKER = (sys.executable, "-c", START)


class Observed:
    """What a client told its owner."""

    def __init__(self) -> None:
        self.reports: list[Report] = []
        self.restarts = 0

    def restarted(self) -> None:
        self.restarts += 1


def new_client(observed: Observed | None = None, device: str = "cpu", **options: Any) -> EngineClient:
    observed = observed or Observed()
    return EngineClient(
        WorkerConfig(models=[], device=device),
        **{
            "max_queue_requests": 100,
            "max_queue_tokens": 10_000,
            "on_report": observed.reports.append,
            "on_restart": observed.restarted,
            "command": FAKE_WORKER,
            **options,
        },
    )


@asynccontextmanager
async def started(observed: Observed | None = None, **options: Any) -> AsyncGenerator[EngineClient, None]:
    client = new_client(observed, **options)
    await client.start()
    try:
        yield client
    finally:
        await client.stop(0.0)


def run(scene: Coroutine[Any, Any, None]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(60):
            await scene

    asyncio.run(bounded())


def request(model: str = "echo", max_tokens: int = 3, prompt: int = 2, **params: Any) -> GenerateRequest:
    return GenerateRequest(
        model=model, prompt_ids=[7] * prompt, params=SamplingParams(max_tokens=max_tokens, **params)
    )


async def generated(client: EngineClient, one: GenerateRequest) -> list[int]:
    return [token_id async for answer in client.generate(one) for token_id in answer.token_ids]


def engine_processes() -> list[psutil.Process]:
    """Of all children, as tests of other things leave some of theirs."""
    return [child for child in psutil.Process().children() if "--flight" in child.cmdline()]


async def until(is_so: Callable[[], bool]) -> None:
    while not is_so():  # noqa: ASYNC110 - what is waited for has no event
        await asyncio.sleep(0.001)


def test_tokens_stream_to_the_request_they_belong_to() -> None:
    async def scene() -> None:
        observed = Observed()
        async with started(observed) as client:
            assert client.is_ready
            assert isinstance(client.info, Ready)
            counts = [1, 2, 5, 20]
            answers = await asyncio.gather(*(generated(client, request(max_tokens=n)) for n in counts))
            assert answers == [list(range(n)) for n in counts]
            assert client.num_requests == 0
            assert client.num_tokens == 0
            assert len(observed.reports) == sum(counts)
        assert not client.is_ready

    run(scene())


def test_many_come_back_in_order_as_one_message_each() -> None:
    async def scene() -> None:
        async with started() as client:
            requests = [request(max_tokens=n, logprobs=0) for n in (3, 1, 2)]
            answers = await client.generate_many(requests)
            assert [answer.token_ids for answer in answers] == [[0, 1, 2], [0], [0, 1]]
            assert [len(answer.logprobs or ()) for answer in answers] == [3, 1, 2]
            assert all(a.finish_reason == "length" and a.queue_duration == 0.5 for a in answers)
            texts = [EncodeRequest(model="echo", ids=[i] * i, output="embedding") for i in (4, 1, 300)]
            assert [one.shape for one in await client.encode_many(texts)] == [[4], [1], [300]]
            assert (await client.encode(texts[1])).data == b"\1\0\0\0"
            assert await client.encode_many([]) == []

    run(scene())


def test_a_request_without_a_seed_gets_one_and_another_keeps_its_own() -> None:
    async def scene() -> None:
        observed = Observed()
        async with started(observed) as client:
            for seed in (None, None, 5):
                await generated(client, request(max_tokens=1, seed=seed))
        seeds = [report.waiting["seed"] for report in observed.reports]
        assert len({*seeds}) == 3
        assert seeds[2] == 5

    run(scene())


def test_questions_get_their_own_replies_and_an_error_when_the_process_dies() -> None:
    async def scene() -> None:
        async with started() as client:
            counts = [3, 1, 2]
            traces = await asyncio.gather(*(client.trace(steps) for steps in counts))
            assert [len(steps) for steps in traces] == counts
            assert traces[0][0].stages == [("schedule", 1.0, 1.5), ("run", 1.5, 2.0)]
            with pytest.raises(Unavailable):
                await client.trace(1024)  # ends the fake process
            await until(lambda: client.is_ready)
            assert len(await client.trace(1)) == 1
        with pytest.raises(Unavailable):
            await client.trace(1)

    run(scene())


def test_an_adapter_is_refused_or_lost_with_the_process_that_was_to_load_it() -> None:
    async def scene() -> None:
        async with started() as client:
            with pytest.raises(EngineFailed, match="it broke"):
                await client.load_adapter(AdapterSpec("any", "m", "/x"))
            with pytest.raises(Unavailable):
                await client.load_adapter(AdapterSpec("die", "m", "/x"))
            await until(lambda: client.is_ready)
            unloading = asyncio.create_task(client.unload("held"))
            await client.trace(1)  # so that it has been asked
        with pytest.raises(Unavailable):
            await unloading
        with pytest.raises(Unavailable):
            await client.unload("any")

    run(scene())


def test_leaving_a_stream_or_being_cancelled_aborts() -> None:
    async def scene() -> None:
        async with started() as client:
            async with aclosing(client.generate(request(max_tokens=500))) as answers:
                async for _ in answers:
                    break
            task = asyncio.create_task(client.generate_many([request("hold"), request("hold")]))
            await until(lambda: client.num_requests == 2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert client.num_requests == 0
            # an end that was underway when the stream was left needs no abort
            assert set(await generated(client, request("aborted"))) >= {2, 3}

    run(scene())


def test_a_request_that_fails_ends_those_sent_with_it() -> None:
    async def scene() -> None:
        async with started() as client:
            with pytest.raises(InvalidRequest, match="too long for the cache"):
                await client.generate_many([request("hold"), request("invalid")])
            with pytest.raises(EngineFailed, match="it broke"):
                await generated(client, request("internal"))
            assert client.num_requests == 0
            assert await generated(client, request("aborted")) == [1]

    run(scene())


def test_a_full_queue_refuses_at_once_and_takes_nothing_of_a_group() -> None:
    async def scene() -> None:
        async with started(max_queue_requests=3, max_queue_tokens=50) as client:
            holding = asyncio.create_task(client.generate_many([request("hold"), request("hold")]))
            await until(lambda: client.num_requests == 2)
            with pytest.raises(Overloaded) as by_requests:
                await client.generate_many([request(), request()])
            assert by_requests.value.retry_after == 1.0
            assert client.num_requests == 2
            with pytest.raises(Overloaded):
                await generated(client, request(max_tokens=41))
            with pytest.raises(InvalidRequest, match="more than the queue"):
                await generated(client, request(max_tokens=49))
            with pytest.raises(InvalidRequest):
                await client.generate_many([request()] * 4)
            assert await generated(client, request("release")) == [0, 1, 2]
            await holding
            assert client.num_tokens == 0

    run(scene())


def test_a_request_too_large_for_a_frame_is_the_clients_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene() -> None:
        async with started() as client:
            monkeypatch.setattr("app.engine.framing.MAX_FRAME_BYTES", 200)
            with pytest.raises(InvalidRequest, match="too large"):
                await generated(client, request(prompt=500))
            assert client.num_requests == 0
            assert await generated(client, request()) == [0, 1, 2]

    run(scene())


@pytest.mark.parametrize(("device", "error"), [("no-checkpoint", ConfigError), ("broken", EngineFailed)])
def test_an_engine_that_cannot_start_says_why(device: str, error: type[Exception]) -> None:
    async def scene() -> None:
        client = new_client(device=device)
        with pytest.raises(error):
            await client.start()
        assert not client.is_ready
        await client.stop(0.0)

    run(scene())


def test_a_command_that_does_not_exist_cannot_start() -> None:
    async def scene() -> None:
        client = new_client(command=("/nowhere/at-all",))
        with pytest.raises(EngineFailed, match="/nowhere/at-all"):
            await client.start()

    run(scene())


def test_an_engine_that_ends_again_and_again_is_given_up() -> None:
    async def scene() -> None:
        observed = Observed()
        async with started(observed, device="short-lived", patience=Patience(max_failures=2)) as client:
            with pytest.raises(EngineFailed, match="ended 3 times"):
                await client.wait_lost()
            assert observed.restarts == 2
            with pytest.raises(Unavailable):
                await generated(client, request())

    run(scene())


def test_a_start_that_is_cancelled_leaves_no_process() -> None:
    async def scene() -> None:
        client = new_client(device="never-ready")
        starting = asyncio.create_task(client.start())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await asyncio.shield(starting)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert engine_processes() == []
        await client.stop(0.0)

    run(scene())


def test_stopping_waits_for_what_is_in_flight_and_takes_nothing_new() -> None:
    async def scene() -> None:
        async with started() as client:
            held, left = (
                asyncio.create_task(generated(client, request("hold-until-abort"))) for _ in range(2)
            )
            await until(lambda: client.num_requests == 2)
            stopping = asyncio.create_task(client.stop(30.0))
            await asyncio.sleep(0)
            assert not client.is_ready
            with pytest.raises(Unavailable) as refused:
                await generated(client, request())
            assert refused.value.code == "draining"
            left.cancel()
            assert await held == [0, 1, 2]
            await stopping

    run(scene())


def test_stopping_cuts_off_what_takes_too_long() -> None:
    async def scene() -> None:
        async with started() as client:
            held = asyncio.create_task(generated(client, request("hold")))
            await until(lambda: client.num_requests == 1)
            await client.stop(0.05)
            with pytest.raises(Unavailable):
                await held
            await client.stop(0.0)

    run(scene())


def test_a_mistake_in_the_metrics_does_not_cut_the_stream() -> None:
    def fail(report: Report) -> None:
        raise RuntimeError(report.model)

    async def scene() -> None:
        async with started(on_report=fail) as client:
            assert await generated(client, request()) == [0, 1, 2]

    run(scene())


def test_messages_of_a_stream_end_with_a_finish_reason() -> None:
    async def scene() -> None:
        async with started() as client:
            answers: list[Tokens] = [answer async for answer in client.generate(request())]
            assert [answer.finish_reason for answer in answers[:-1]] == [None] * (len(answers) - 1)
            assert answers[-1].finish_reason == "length"

    run(scene())


def test_what_came_while_the_reader_was_away_is_one_message() -> None:
    async def scene() -> None:
        async with started() as client:
            async with aclosing(client.generate(request(max_tokens=50, logprobs=0))) as answers:
                first = await anext(answers)
                await until(lambda: client.num_requests == 0)
                rest = [answer async for answer in answers]
            assert len(rest) <= 1
            whole = [first, *rest]
            assert [token for answer in whole for token in answer.token_ids] == list(range(50))
            assert sum(len(answer.logprobs or ()) for answer in whole) == 50
            assert whole[-1].finish_reason == "length"
            assert first.queue_duration == 0.5

    run(scene())
