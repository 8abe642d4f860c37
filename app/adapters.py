"""Adapters that come and go while the service runs: folder read, engine asked, tasks and metrics made."""

import asyncio
import logging
import re
from collections.abc import Collection, Coroutine, Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from app.engine.protocol import AdapterSpec, ModelInfo
from app.errors import ConfigError, InvalidRequest, QuartetError
from app.metrics import Metrics
from app.tasks.served import Served, read_served
from model.config import CheckpointError

_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}"
_log = logging.getLogger("quartet.registry")

Result = TypeVar("Result")


class Catalogue(Protocol):
    """What is served, as the registry keeps it."""

    @property
    def served(self) -> Mapping[str, Served]: ...

    @property
    def metrics(self) -> Metrics: ...

    def add(self, one: Served, info: ModelInfo) -> None: ...

    def remove(self, name: str) -> ModelInfo: ...


class AdapterEngine(Protocol):
    """What adapters need of the engine's client."""

    async def load_adapter(self, adapter: AdapterSpec) -> ModelInfo: ...

    async def unload_adapter(self, name: str) -> None: ...


class Adapters:
    """What is begun is brought to an end even if the caller leaves, so that engine and catalogue agree."""

    def __init__(self, catalogue: Catalogue, engine: AdapterEngine, defaults: Collection[str]) -> None:
        """`defaults` are names that tasks rely on: they stay."""
        self._catalogue, self._engine, self._defaults = catalogue, engine, defaults
        self._working: set[asyncio.Task[Any]] = set()

    async def load(self, name: str, base: Served, folder: Path) -> ModelInfo:
        """Raises InvalidRequest (`param`: name, base or path), EngineFailed, Unavailable."""
        if not re.fullmatch(_NAME, name):
            raise InvalidRequest("a name has letters, digits, - and _, 128 at most", "name")
        if name in self._catalogue.served:
            raise InvalidRequest(f"the name {name!r} is taken", "name")
        if base.base is not None:
            raise InvalidRequest(f"{base.name!r} is an adapter itself", "base")
        return await self._finish(self._load(name, base, folder))

    async def unload(self, one: Served) -> None:
        """Returns when its sequences are done. Raises InvalidRequest, Unavailable."""
        if one.base is None:
            raise InvalidRequest(f"{one.name!r} is no adapter: it stays while the service runs", "name")
        if one.name in self._defaults:
            raise InvalidRequest(f"{one.name!r} is the default model of a task", "name")
        await self._finish(self._unload(one))

    async def _load(self, name: str, base: Served, folder: Path) -> ModelInfo:
        try:
            one = await asyncio.to_thread(read_served, name, folder, base, None, base.task_prompts)
        except (CheckpointError, ConfigError) as fault:
            raise InvalidRequest(str(fault), "path") from None
        info = await self._engine.load_adapter(AdapterSpec(name, base.name, str(folder)))
        self._catalogue.add(one, info)
        self._catalogue.metrics.declare([(name, [task.name for task in one.tasks])])
        _log.info("adapter %s was loaded onto %s in %.2f s", name, base.name, info.load_seconds)
        return info

    async def _unload(self, one: Served) -> None:
        info = self._catalogue.remove(one.name)
        try:
            await self._engine.unload_adapter(one.name)
        except QuartetError:
            self._catalogue.add(one, info)
            raise
        if one.name not in self._catalogue.served:
            self._catalogue.metrics.forget(one.name)
        _log.info("adapter %s was unloaded", one.name)

    async def _finish(self, work: Coroutine[Any, Any, Result]) -> Result:
        task = asyncio.create_task(work)
        self._working.add(task)
        task.add_done_callback(self._working.discard)
        return await asyncio.shield(task)
