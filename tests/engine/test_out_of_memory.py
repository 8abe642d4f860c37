"""Real engine processes whose memory really ends: their address space is limited while they run."""

import random
import re
import resource
from contextlib import suppress
from dataclasses import replace

import pytest

from app.engine.client import EngineClient
from app.engine.protocol import EncodeRequest, GenerateRequest, ModelSpec, WorkerConfig
from app.engine.sampling_params import SamplingParams
from model.loading import save_model
from tests.engine.test_client import Observed, run
from tests.engine.test_crashes import engine
from tests.engine.test_recovery import engine_process
from tests.tiny import BERT, LLAMA, random_model

VOCABULARY = 50_000
"""So that a row of logits takes 400 kB, and a step of 200 texts some 80 MB for each pass over them."""
ROOM = 48 * 2**20
"""Not enough for such a step, plenty for an eighth of it."""
LARGE = 120
"""Sequences in a step."""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> WorkerConfig:
    root = tmp_path_factory.mktemp("checkpoints")
    save_model(random_model(replace(LLAMA, vocab_size=VOCABULARY)), root / "llama")
    save_model(random_model(replace(BERT, intermediate_size=20_000, max_positions=512)), root / "bert")
    specs = [ModelSpec(name, str(root / name)) for name in ("llama", "bert")]
    return WorkerConfig(
        models=specs, device="cpu", dtype="float64", kv_cache_memory=4_000_000, threads=1, target_step_ms=0
    )


def texts(count: int) -> list[GenerateRequest]:
    source = random.Random(5)
    return [
        GenerateRequest(
            model="llama",
            prompt_ids=[source.randrange(3, VOCABULARY) for _ in range(3)],
            params=SamplingParams(max_tokens=8, ignore_eos=True, temperature=0.7 * (number % 2), seed=number),
        )
        for number in range(count)
    ]


def to_classify(count: int) -> list[EncodeRequest]:
    source = random.Random(6)
    return [
        EncodeRequest(model="bert", ids=[source.randrange(3, 90) for _ in range(8)], output="class")
        for _ in range(count)
    ]


class Limited:
    """Within it the engine process gets so many bytes more than it has, and not one beyond. One that is gone may."""

    def __init__(self, room: int) -> None:
        self._process, self._room = engine_process(), room

    def __enter__(self) -> None:
        limit = self._process.memory_info().vms + self._room
        resource.prlimit(self._process.pid, resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))

    def __exit__(self, *_: object) -> None:
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        with suppress(ProcessLookupError):
            resource.prlimit(self._process.pid, resource.RLIMIT_AS, unlimited)


async def answers(client: EngineClient) -> tuple[list[list[int]], list[bytes]]:
    tokens = await client.generate_many(texts(200))
    encoded = await client.encode_many(to_classify(100))
    return [one.token_ids for one in tokens], [one.data for one in encoded]


def test_steps_that_get_no_memory_are_done_in_parts_and_nobody_fails(
    config: WorkerConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    async def scene() -> None:
        observed = Observed()
        async with engine(config, observed) as client:
            wanted = await answers(client)
            assert max(report.batch_size for report in observed.reports) > LARGE
        capfd.readouterr()
        async with engine(config, observed) as client:
            await client.generate_many(texts(1))
            await client.encode_many(to_classify(1))
            observed.reports.clear()
            with Limited(ROOM):
                assert await answers(client) == wanted
            assert observed.restarts == 0
            assert max(report.batch_size for report in observed.reports) < LARGE
        told = capfd.readouterr().err
        for model in ("llama", "bert"):
            assert re.search(rf"a step of {model} with \d+ tokens is too large for the memory", told)
        assert "failed with" not in told, "what is no end of memory is tried one by one"

    run(scene())
