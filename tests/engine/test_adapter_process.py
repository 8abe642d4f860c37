"""Adapters over the process border: a real worker takes one on while it streams, and the next process has it too."""

import asyncio
import os
import signal
from contextlib import aclosing
from pathlib import Path

import psutil
import pytest

from app.engine.client import EngineClient
from app.engine.protocol import AdapterSpec, GenerateRequest, ModelSpec, WorkerConfig
from app.engine.sampling_params import SamplingParams
from app.errors import InvalidRequest
from model.loading import save_model
from tests.engine.test_adapters import write_adapter
from tests.engine.test_client import run, until
from tests.tiny import LLAMA, random_model


def ask_for(model: str, count: int) -> GenerateRequest:
    params = SamplingParams(max_tokens=count, seed=0, ignore_eos=True)
    return GenerateRequest(model=model, prompt_ids=[5, 6, 7], params=params)


def tell_worker(number: signal.Signals) -> None:
    for child in psutil.Process().children():
        if "app.engine.worker" in " ".join(child.cmdline()):
            os.kill(child.pid, number)


async def kill(client: EngineClient) -> None:
    """Returns when the next process is ready."""
    assert client.info is not None
    before = client.info
    tell_worker(signal.SIGKILL)
    await until(lambda: client.info is not before and client.is_ready)


def test_an_adapter_outlives_its_process_until_it_is_unloaded(tmp_path: Path) -> None:
    save_model(random_model(LLAMA), tmp_path / "llama")
    write_adapter(tmp_path / "mine", tmp_path / "llama", 0)
    config = WorkerConfig(
        models=[ModelSpec("llama", str(tmp_path / "llama"))],
        device="cpu",
        threads=1,
        kv_cache_memory=1_000_000,
    )
    spec = AdapterSpec("mine", "llama", str(tmp_path / "mine"))

    async def scene() -> None:
        client = EngineClient(
            config,
            max_queue_requests=10,
            max_queue_tokens=10_000,
            on_report=lambda _: None,
            on_restart=lambda: None,
        )
        await client.start()
        try:
            async with aclosing(client.generate(ask_for("llama", 100))) as stream:
                first = await anext(stream)
                info = await client.load_adapter(spec)
                num_rest = 0
                async for tokens in stream:
                    num_rest += len(tokens.token_ids)
            assert (info.name, info.base) == ("mine", "llama")
            assert len(first.token_ids) + num_rest == 100
            [plain] = await client.generate_many([ask_for("llama", 20)])
            [said] = await client.generate_many([ask_for("mine", 20)])
            assert said.token_ids != plain.token_ids
            steps = await client.trace(1000)
            assert sum(step.num_sequences for step in steps) >= 140
            with pytest.raises(InvalidRequest) as refused:
                await client.load_adapter(spec)
            assert refused.value.param == "name"

            await kill(client)
            [again] = await client.generate_many([ask_for("mine", 20)])
            assert again.token_ids == said.token_ids
            async with aclosing(client.generate(ask_for("mine", 100))) as stream:
                taken = list((await anext(stream)).token_ids)
                tell_worker(signal.SIGSTOP)
                unloading = asyncio.create_task(client.unload("mine"))
                await kill(client)
                async for tokens in stream:
                    taken += tokens.token_ids
            assert taken[:20] == said.token_ids
            assert len(taken) == 100, "what had begun is brought to its end, by another process"
            await unloading
            with pytest.raises(InvalidRequest):
                await client.unload("mine")

            await kill(client)
            with pytest.raises(InvalidRequest):
                await client.generate_many([ask_for("mine", 20)])
            assert (await client.generate_many([ask_for("llama", 20)]))[0].token_ids == plain.token_ids
        finally:
            await client.stop(0.0)

    run(scene())
