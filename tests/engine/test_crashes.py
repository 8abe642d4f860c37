"""The client over real engine processes that are really killed: the same tokens as without."""

import asyncio
import random
import sys
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from app.engine.client import WORKER_COMMAND, EngineClient, Patience
from app.engine.protocol import EncodeRequest, GenerateRequest, ModelSpec, Tokens, WorkerConfig
from app.engine.sampling_params import SamplingParams
from app.errors import EngineFault
from model.loading import save_model
from tests.engine.faulty_worker import POISON
from tests.engine.test_client import Observed, run, until
from tests.engine.test_recovery import engine_process
from tests.model.test_kernels import needs_kernel
from tests.model.test_packing import needs_onednn
from tests.tiny import BERT, LLAMA, T5, random_model

ROOT = Path(__file__).parents[2]
START = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from tests.engine import faulty_worker; faulty_worker.main()"
FAULTY_WORKER = (sys.executable, "-c", START)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> WorkerConfig:
    """In double precision, so that rounding decides nothing."""
    root = tmp_path_factory.mktemp("checkpoints")
    for name, shape in (("llama", LLAMA), ("t5", T5), ("bert", BERT)):
        save_model(random_model(shape), root / name)
    specs = [ModelSpec(name, str(root / name)) for name in ("llama", "t5", "bert")]
    return WorkerConfig(models=specs, device="cpu", dtype="float64", kv_cache_memory=4_000_000, threads=1)


@asynccontextmanager
async def engine(
    config: WorkerConfig, observed: Observed, command: Sequence[str] = WORKER_COMMAND
) -> AsyncGenerator[EngineClient, None]:
    client = EngineClient(
        config,
        max_queue_requests=1000,
        max_queue_tokens=100_000,
        on_report=observed.reports.append,
        on_restart=observed.restarted,
        command=command,
        patience=Patience(max_failures=2),
    )
    await client.start()
    try:
        yield client
    finally:
        await client.stop(0.0)


def requests() -> list[GenerateRequest | EncodeRequest]:
    """Greedy, sampled and searched texts of both kinds, and texts to classify; none holds the poison or says it."""
    source = random.Random(3)

    def ids() -> list[int]:
        return [source.randrange(3, POISON) for _ in range(source.randint(2, 20))]

    made: list[GenerateRequest | EncodeRequest] = []
    for number in range(24):
        ways: list[dict[str, Any]] = [{}, {"temperature": 0.9, "seed": number}, {"num_beams": 3}]
        params = SamplingParams(
            max_tokens=60, ignore_eos=True, logit_bias={POISON: -100.0}, **ways[number % 3]
        )
        made.append(GenerateRequest(model=("llama", "t5")[number % 2], prompt_ids=ids(), params=params))
    return [*made, *(EncodeRequest(model="bert", ids=ids(), output="class") for _ in range(8))]


class Crowd:
    """Everybody's answers, and how many tokens have come so far."""

    def __init__(self, client: EngineClient) -> None:
        self.client = client
        self.num_tokens = 0

    async def answers(self) -> list[Any]:
        return await asyncio.gather(*(self._answer(request) for request in requests()))

    async def _answer(self, request: GenerateRequest | EncodeRequest) -> Any:
        if isinstance(request, EncodeRequest):
            return (await self.client.encode(request)).data
        if request.params.num_beams > 1:
            [found] = await self.client.search_many([request])
            return [one.token_ids for one in found.best]
        said: list[int] = []
        ends: list[str] = []
        async for answer in self.client.generate(request):
            assert isinstance(answer, Tokens)
            said += answer.token_ids
            self.num_tokens += len(answer.token_ids)
            ends += [answer.finish_reason] if answer.finish_reason else []
        assert ends == ["length"]
        return said


@pytest.mark.parametrize("dtype", ["float64", pytest.param("float32", marks=[needs_kernel, needs_onednn])])
def test_answers_are_the_same_however_often_the_engine_is_killed(config: WorkerConfig, dtype: str) -> None:
    """Rounding decides nothing in double precision, and is always the same where that is asked for."""
    config = msgspec.structs.replace(config, dtype=dtype, deterministic=dtype == "float32")

    async def scene() -> None:
        observed = Observed()
        async with engine(config, observed) as client:
            wanted = await Crowd(client).answers()
            crowd = Crowd(client)
            answering = asyncio.create_task(crowd.answers())
            for count in (0, 100, 700):  # of the 960 tokens that are streamed
                await until(lambda count=count: client.is_ready and crowd.num_tokens >= count)  # type: ignore[misc]
                engine_process().kill()
                await until(lambda: not client.is_ready)
            assert await answering == wanted
            assert observed.restarts == 3
            assert client.num_requests == client.num_tokens == 0

    run(scene())


def test_poison_ends_engines_but_not_the_others_answers(config: WorkerConfig) -> None:
    async def scene() -> None:
        observed = Observed()
        async with engine(config, observed, FAULTY_WORKER) as client:
            wanted = await Crowd(client).answers()
            answering = asyncio.create_task(Crowd(client).answers())
            await until(lambda: client.num_requests > 0)
            bad = GenerateRequest(
                model="llama", prompt_ids=[5, POISON, 7], params=SamplingParams(max_tokens=4)
            )
            with pytest.raises(EngineFault):
                await client.generate_many([bad])
            assert await answering == wanted
            assert observed.restarts == 3
            with pytest.raises(EngineFault, match="refused"):
                await client.generate_many([bad])
            assert observed.restarts == 3

    run(scene())
