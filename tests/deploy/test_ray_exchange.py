"""Requests to the real application, on a fake engine, without a connection."""

import asyncio
import json
import pickle
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.types import Message, Receive, Scope, Send

from app.main import Limits, create_app
from app.metrics import Metrics
from app.registry import Registry
from app.tasks.served import read_served
from deploy.ray.exchange import answer, portable, whole_answer
from tests.api.fake_engine import FakeEngine
from tests.api.folders import CONFIGS, write_folder

Scene = Callable[[FastAPI, FakeEngine], Awaitable[None]]


def request(path: str, method: str = "POST") -> Scope:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"x"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 2),
    }


def generate() -> Scope:
    return request("/v1/generate")


def body(**fields: Any) -> bytes:
    return json.dumps({"prompt": "Hi", "max_tokens": 8, "model": "chat"} | fields).encode()


@pytest.fixture
def play(tmp_path: Path) -> Callable[[Scene], None]:
    """Plays a scene with the application and its engine."""
    folder = write_folder(tmp_path / "chat", next(c for c in CONFIGS.values() if c["model_type"] == "llama"))
    served = [read_served("chat", folder)]

    async def run(scene: Scene) -> None:
        engine, registry = FakeEngine(served), Registry("test", served, Metrics("test"))
        await registry.start(engine)
        async with asyncio.timeout(30):
            await scene(create_app(registry, Limits(10_000, 5.0, 60.0)), engine)
        await registry.stop()

    return lambda scene: asyncio.run(run(scene))


def texts(messages: list[Message]) -> bytes:
    return b"".join(message.get("body", b"") for message in messages)


def test_it_is_answered_as_over_a_connection(play: Callable[[Scene], None]) -> None:
    async def scene(app: FastAPI, engine: FakeEngine) -> None:
        messages = [one async for batch in answer(app, generate(), body()) for one in batch]
        assert messages[0]["status"] == 200
        assert json.loads(texts(messages))["usage"]["completion_tokens"] == 8
        messages = [one async for batch in answer(app, generate(), body(prompt=7)) for one in batch]
        assert messages[0]["status"] == 400
        health = await whole_answer(app, request("/health", "GET"))
        assert (health[0]["status"], texts(health)) == (200, b'{"status":"ok"}')

    play(scene)


def test_a_stream_comes_as_it_is_made(play: Callable[[Scene], None]) -> None:
    async def scene(app: FastAPI, engine: FakeEngine) -> None:
        engine.gate.clear()
        engine.free_tokens = 3
        seen = b""
        async with aclosing(answer(app, generate(), body(stream=True))) as batches:
            async for batch in batches:
                seen += texts(batch)
                if not engine.gate.is_set() and seen.count(b"data:"):
                    assert b"[DONE]" not in seen
                    engine.gate.set()
        assert seen.endswith(b"data: [DONE]\n\n")

    play(scene)


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_ends_the_work(stream: bool, play: Callable[[Scene], None]) -> None:
    async def scene(app: FastAPI, engine: FakeEngine) -> None:
        engine.gate.clear()
        engine.free_tokens = 2

        async def read() -> None:
            async with aclosing(answer(app, generate(), body(stream=stream))) as batches:
                async for _ in batches:
                    pass

        reading = asyncio.create_task(read())
        while not engine.num_running:  # noqa: ASYNC110 - it has no event for it
            await asyncio.sleep(0)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        assert (engine.num_running, engine.num_aborted) == (0, 1)

    play(scene)


def test_what_the_application_raises_is_raised() -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        raise ValueError("broken")

    async def read() -> None:
        async with aclosing(answer(broken, generate(), b"")) as batches:
            async for _ in batches:
                pass

    with pytest.raises(ValueError, match="broken"):
        asyncio.run(read())


def test_what_travels_can_travel() -> None:
    scope = {**generate(), "state": {"lock": asyncio.Lock()}, "app": FastAPI()}
    assert portable(scope) == generate()
    assert pickle.loads(pickle.dumps(portable(scope))) == generate()
