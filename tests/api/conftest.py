"""A real server on a real socket over a fake engine."""

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import httpx
import pytest
import uvicorn

from app.api.connections import ConnectionLimits, Connections
from app.api.door import Door
from app.api.gate import Limits
from app.api.guard import Guard
from app.main import create_app
from app.metrics import Metrics
from app.registry import Registry
from app.sources import Sources
from app.tasks.language_id import LanguageDetector
from app.tasks.served import Served, read_served
from tests.api.fake_engine import FakeEngine
from tests.api.folders import CONFIGS, write_folder
from tests.api.otlp_receiver import Receiver, receiving

T = TypeVar("T")
TOLD_APART = ("de", "en", "fr", "it")
"""Few languages, since each takes a moment to read."""
LIMITS = Limits(max_body_bytes=1 << 20, body_timeout=0.5, max_timeout=600.0)


class _Server(uvicorn.Server):
    """Says when it accepts connections."""

    def __init__(self, config: uvicorn.Config, on_started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = on_started

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._on_started()


class Service:
    """The server runs in a thread with a loop of its own; `on_loop` runs a function there."""

    def __init__(
        self,
        served: list[Served],
        limits: Limits,
        connections: ConnectionLimits | None = None,
        send_bytes: int | None = None,
        defaults: dict[str, str] | None = None,
        sources: Sources | None = None,
        **options: Any,
    ) -> None:
        self._defaults, self._sources = defaults, sources
        self._limits, self._connections = limits, connections or ConnectionLimits()
        self._send_bytes = send_bytes  # what the system holds of an answer that is not read
        self._options = options
        self._served = served
        self._started: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)
        self._thread.start()
        self._started.result(timeout=10)
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=10)

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self.engine = FakeEngine(self._served)
        self.registry = Registry("test", self._served, Metrics("test"), self._defaults, self._sources)
        with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor(1) as pool:
            self.registry.detector = LanguageDetector(pool, TOLD_APART)
            self.port = listener.getsockname()[1]
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._send_bytes is not None:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self._send_bytes)
            app = create_app(self.registry, self._limits, **self._options)
            door = Door(self.registry, self._options.get("guard") or Guard(), self._limits.max_timeout)
            connections = Connections(self._connections, self.registry.metrics, door.refuse)
            config = uvicorn.Config(
                app,
                http=connections.protocol,  # type: ignore[arg-type]
                lifespan="off",
                log_config=None,
                timeout_graceful_shutdown=1,
                ws="none",
            )
            self._server = _Server(config, lambda: self._started.set_result(None))
            await self.registry.start(self.engine)
            await self._server.serve(sockets=[listener])
            await self.registry.stop()

    def on_loop(self, work: Callable[[], T]) -> T:
        async def run() -> T:
            return work()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(timeout=10)

    def wait_until(self, condition: Callable[[], bool]) -> None:
        """Yields to the server's loop until the condition, seen there, holds."""

        async def wait() -> None:
            async with asyncio.timeout(10):
                while not condition():  # noqa: ASYNC110 - whatever the test asks about has no event
                    await asyncio.sleep(0.001)

        asyncio.run_coroutine_threadsafe(wait(), self._loop).result(timeout=15)

    def post(self, path: str, body: Any, **options: Any) -> httpx.Response:
        return self.client.post(path, json=body, **options)

    def close(self) -> None:
        if not self._thread.is_alive():
            return
        self.client.close()
        self.on_loop(self.engine.gate.set)
        self._server.should_exit = True
        self._thread.join(timeout=10)


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> list[Served]:
    root: Path = tmp_path_factory.mktemp("models")
    return [read_served(name, write_folder(root / name, config)) for name, config in CONFIGS.items()]


@pytest.fixture(scope="session")
def shared(served: list[Served]) -> Iterator[Service]:
    """One for all tests that only ask, and change nothing about the engine."""
    running = Service(served, LIMITS)
    yield running
    running.close()


@pytest.fixture
def start(served: list[Served]) -> Iterator[Callable[..., Service]]:
    """Starts services with options of `create_app`, and with `defaults` and `sources` for the registry."""
    started: list[Service] = []

    def start_one(**options: Any) -> Service:
        started.append(Service(served, LIMITS, **options))
        return started[-1]

    yield start_one
    for running in started:
        running.close()


@pytest.fixture
def service(served: list[Served]) -> Iterator[Service]:
    running = Service(served, LIMITS)
    yield running
    running.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """Takes traces."""
    with receiving() as receiver:
        yield receiver
