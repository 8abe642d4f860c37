"""What the registry does beside finding tasks: the trace, adapters at run time."""

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from app.engine.protocol import AdapterSpec
from app.errors import InvalidRequest, ModelNotFound, Unavailable
from app.metrics import Metrics
from app.registry import Registry
from app.sources import Wanted
from app.tasks.generate import Generate
from app.tasks.served import Served
from tests.api.fake_engine import FakeEngine


def run(scene: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(scene, 30.0))


def test_the_trace_is_bounded_and_waits_for_no_engine(served: list[Served]) -> None:
    async def scene() -> None:
        registry = Registry("test", served, Metrics("test"))
        with pytest.raises(Unavailable):
            await registry.trace(1)
        await registry.start(FakeEngine(served))
        for steps in (0, -1, 1025):
            with pytest.raises(InvalidRequest) as refused:
                await registry.trace(steps)
            assert refused.value.param == "steps"
        for steps in (1, 1024):
            trace = await registry.trace(steps)
            assert [event["name"] for event in trace["traceEvents"]] == ["process_name"]
        await registry.stop()

    run(scene())


@pytest.fixture(scope="module")
def folder(served: list[Served], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of the writer; the registry reads no weights."""
    path = tmp_path_factory.mktemp("adapter")
    settings = {
        "peft_type": "LORA",
        "r": 4,
        "target_modules": ["q_proj"],
        "base_model_name_or_path": "writer",
    }
    (path / "adapter_config.json").write_text(json.dumps(settings))
    return path


class Started:
    """A registry over an engine that does what it is told."""

    def __init__(self, served: list[Served], defaults: dict[str, str] | None = None) -> None:
        self.engine = FakeEngine(served)
        self.registry = Registry("test", served, Metrics("test"), defaults)

    async def __aenter__(self) -> "Started":
        await self.registry.start(self.engine)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.registry.stop()

    def samples(self, model: str) -> set[str]:
        """The metrics that tell of a model."""
        return {
            sample.name
            for metric in self.registry.metrics.registry.collect()
            for sample in metric.samples
            if sample.labels.get("model") == model
        }


GAUGES = {"quartet_requests_running", "quartet_requests_waiting", "quartet_kv_cache_usage_ratio"} | {
    "quartet_kv_cache_blocks",
    "quartet_model_load_seconds",
}


def test_a_loaded_adapter_is_a_model_until_it_is_unloaded(served: list[Served], folder: Path) -> None:
    async def scene() -> None:
        async with Started(served) as started:
            registry = started.registry
            before, default = registry.info(), registry.default_model("generate")
            await registry.load("tales", Wanted(folder, "writer"))
            assert started.engine.loaded == [AdapterSpec("tales:1", "writer", str(folder))]
            task = registry.find(Generate, "tales")
            assert task.model.name == "tales"
            assert registry.model_card("tales")["base"] == "writer"
            assert [one["id"] for one in registry.info()["models"]][-1] == "tales"
            assert registry.default_model("generate") == default
            assert GAUGES | {"quartet_requests_total"} < started.samples("tales")
            assert started.samples("tales") == started.samples("writer")
            await registry.unload("tales")
            assert started.engine.unloaded == ["tales:1"]
            with pytest.raises(ModelNotFound):
                registry.find(Generate, "tales")
            assert registry.info() == before
            assert not GAUGES & started.samples("tales")
            assert "quartet_requests_total" in started.samples("tales"), "what was counted stays"
            await registry.load("tales", Wanted(folder, "writer"))
            await registry.unload("tales")

    run(scene())


def test_who_leaves_does_not_leave_half_an_adapter(served: list[Served], folder: Path) -> None:
    async def scene() -> None:
        async with Started(served) as started:
            started.engine.loading.clear()
            loading = asyncio.create_task(started.registry.load("tales", Wanted(folder, "writer")))
            await asyncio.sleep(0)
            loading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await loading
            started.engine.loading.set()
            while "tales" not in started.registry.served:  # noqa: ASYNC110 - there is no event
                await asyncio.sleep(0.001)
            assert started.registry.find(Generate, "tales").model.name == "tales"

    run(scene())


def test_an_adapter_that_the_engine_does_not_take_or_leave_changes_nothing(
    served: list[Served], folder: Path
) -> None:
    async def scene() -> None:
        async with Started(served) as started:
            before = started.registry.info()
            started.engine.failure = InvalidRequest("does not fit", "path")
            with pytest.raises(InvalidRequest, match="does not fit"):
                await started.registry.load("tales", Wanted(folder, "writer"))
            assert started.registry.info() == before
            started.engine.failure = None
            await started.registry.load("tales", Wanted(folder, "writer"))
            before = started.registry.info()
            started.engine.failure = Unavailable("the engine is being started again")
            with pytest.raises(Unavailable):
                await started.registry.unload("tales")
            assert started.registry.info() == before

    run(scene())


def test_what_cannot_be_loaded_or_unloaded_is_told_with_its_field(
    served: list[Served], folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text("{")

    async def scene() -> None:
        registry = Registry("test", served, Metrics("test"))
        with pytest.raises(Unavailable):
            await registry.load("tales", Wanted(folder, "writer"))
        with pytest.raises(Unavailable):
            await registry.unload("writer")
        async with Started(served) as started:
            registry = started.registry
            await registry.load("best", Wanted(folder, "writer"))
            for name, base, path, param in (
                ("a b", "writer", folder, "name"),
                ("", "writer", folder, "name"),
                ("x" * 129, "writer", folder, "name"),
                ("a.b", "writer", folder, "name"),
                ("a:b", None, folder, "name"),
                ("writer", "writer", folder, "name"),
                ("best", None, folder, "name"),
                ("new", "best", folder, "base"),
                ("new", "writer", tmp_path, "path"),
                ("new", None, folder, "path"),
                ("new", "writer", None, "path"),
            ):
                with pytest.raises(InvalidRequest) as refused:
                    await registry.load(name, Wanted(path, base))
                assert refused.value.param == param
            for name, base, path, param in (("new", "nobody", folder, "base"), ("new", None, None, "name")):
                with pytest.raises(ModelNotFound) as unknown:
                    await registry.load(name, Wanted(path, base))
                assert unknown.value.param == param
            with pytest.raises(ModelNotFound):
                await registry.unload("nobody")
            with pytest.raises(InvalidRequest, match="base of best") as based:
                await registry.unload("writer")
            assert based.value.param == "name"
            assert [spec.name for spec in started.engine.loaded] == ["best:1"]

    run(scene())
