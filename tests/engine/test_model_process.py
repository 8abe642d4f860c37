"""Models over the process border: real workers that load, replace and unload them, and are killed meanwhile."""

import asyncio
import os
import shutil
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from app.engine.client import EngineClient
from app.engine.protocol import AdapterSpec, ModelSpec, WorkerConfig
from app.errors import InvalidRequest, Unavailable
from model.loading import save_model
from tests.engine.test_adapter_process import ask_for, kill
from tests.engine.test_adapters import write_adapter
from tests.engine.test_client import run
from tests.tiny import LLAMA, random_model


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for seed, name in enumerate(("old", "new", "other")):
        save_model(random_model(LLAMA, seed), tmp_path / name)
    write_adapter(tmp_path / "tales", tmp_path / "old", 0)
    return tmp_path


@asynccontextmanager
async def started(root: Path, *names: str) -> AsyncGenerator[EngineClient, None]:
    specs = [ModelSpec(name, str(root / name)) for name in names]
    config = WorkerConfig(models=specs, device="cpu", dtype="float64", threads=1, kv_cache_memory=1_000_000)
    client = EngineClient(
        config,
        max_queue_requests=10,
        max_queue_tokens=10_000,
        on_report=lambda _: None,
        on_restart=lambda: None,
    )
    await client.start()
    try:
        yield client
    finally:
        await client.stop(0.0)


async def said(client: EngineClient, model: str) -> list[int]:
    [answer] = await client.generate_many([ask_for(model, 20)])
    return answer.token_ids


def test_the_next_process_has_what_is_served_now(root: Path) -> None:
    async def scene() -> None:
        async with started(root, "old", "new") as client:
            old, new = await said(client, "old"), await said(client, "new")
            assert old != new
            await client.load_model(ModelSpec("other:1", str(root / "other")))
            await client.load_adapter(AdapterSpec("tales:2", "old", str(root / "tales")))
            wanted = {name: await said(client, name) for name in ("other:1", "tales:2")}
            await client.unload("new")
            await kill(client)
            assert {name: await said(client, name) for name in wanted} == wanted
            with pytest.raises(InvalidRequest, match="unknown model 'new'"):
                await said(client, "new")
            with pytest.raises(InvalidRequest, match="no model 'new'"):
                await client.unload("new")

    run(scene())


def test_who_is_at_work_on_replaced_weights_ends_on_them_in_the_next_process(root: Path) -> None:
    async def scene() -> None:
        async with started(root, "old") as client:
            old = await said(client, "old")
            async with aclosing(client.generate(ask_for("old", 100))) as stream:
                taken = list((await anext(stream)).token_ids)
                await client.load_model(ModelSpec("old:1", str(root / "new")))
                new = await said(client, "old:1")
                os.kill(client._supervisor.worker._process.pid, 19)  # type: ignore[union-attr]
                unloading = asyncio.create_task(client.unload("old"))
                await kill(client)
                assert await said(client, "old:1") == new
                async for tokens in stream:
                    taken += tokens.token_ids
            assert (len(taken), taken[:20]) == (100, old)
            await unloading
            assert new != old

    run(scene())


def test_who_was_at_work_on_weights_that_are_gone_is_told_so(root: Path) -> None:
    """A folder whose files are others by now cannot give back the old ones: nobody gets a mixture of two."""

    async def scene() -> None:
        async with started(root, "old", "other") as client:
            await client.load_adapter(AdapterSpec("tales:1", "old", str(root / "tales")))
            other = await said(client, "other")
            streams = [client.generate(ask_for(name, 100)) for name in ("old", "tales:1", "other")]
            taken = [list((await anext(stream)).token_ids) for stream in streams][2]
            shutil.copytree(root / "new", root / "incoming")
            for file in (root / "incoming").iterdir():
                file.rename(root / "old" / file.name)
            await client.load_model(ModelSpec("old:2", str(root / "old")))
            new = await said(client, "old:2")
            await kill(client)
            for stream in streams[:2]:
                with pytest.raises(Unavailable) as told:
                    async for _ in stream:
                        pass
                assert told.value.code == "replaced"
            taken += [token_id async for tokens in streams[2] for token_id in tokens.token_ids]
            assert (len(taken), taken[:20]) == (100, other)
            assert await said(client, "old:2") == new
            with pytest.raises(Unavailable):
                await said(client, "old")
            with pytest.raises(InvalidRequest):
                await client.unload("old")
            await kill(client)
            assert await said(client, "old:2") == new

    run(scene())


def test_a_model_that_is_being_read_when_the_engine_dies_is_not_there(root: Path) -> None:
    async def scene() -> None:
        async with started(root, "old") as client:
            old = await said(client, "old")
            os.kill(client._supervisor.worker._process.pid, 19)  # type: ignore[union-attr]
            loading = asyncio.create_task(client.load_model(ModelSpec("new:1", str(root / "new"))))
            await asyncio.sleep(0)
            await kill(client)
            with pytest.raises(Unavailable):
                await loading
            assert await said(client, "old") == old
            with pytest.raises(InvalidRequest, match="unknown model 'new'"):
                await said(client, "new:1")
            assert (await client.load_model(ModelSpec("new:1", str(root / "new")))).name == "new:1"

    run(scene())
