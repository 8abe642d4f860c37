"""What the registry does beside finding tasks: the trace."""

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest

from app.errors import InvalidRequest, Unavailable
from app.metrics import Metrics
from app.registry import Registry
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
