"""Models and adapters that come and go while the service runs: folder read, engine asked, tasks and metrics made.

The engine knows each that comes at run time by a name that no other had, so that one which takes another's place is
beside it until nobody is at work on the old one any more.
"""

import asyncio
import logging
import re
from collections.abc import Collection, Coroutine, Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any, Protocol, TypeVar

from app.engine.protocol import AdapterSpec, ModelInfo, ModelSpec
from app.errors import ConfigError, InvalidRequest, ModelNotFound, QuartetError, Unavailable
from app.in_flight import InFlight
from app.metrics import Metrics
from app.sources import Source, Sources, Wanted
from app.tasks.served import Served, read_served
from model.config import CheckpointError

_NAME = r"[A-Za-z0-9][A-Za-z0-9._/-]{0,127}"
_ADAPTER_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,127}"
_log = logging.getLogger("quartet.registry")

Result = TypeVar("Result")


class Catalogue(Protocol):
    """What is served, as the registry keeps it; `infos` by served name, with the engine's name in each."""

    @property
    def served(self) -> Mapping[str, Served]: ...

    @property
    def infos(self) -> Mapping[str, ModelInfo]: ...

    @property
    def metrics(self) -> Metrics: ...

    def put(self, one: Served, info: ModelInfo) -> None: ...

    def remove(self, name: str) -> None: ...


class LoadingEngine(Protocol):
    """What loading needs of the engine's client."""

    async def load_model(self, model: ModelSpec) -> ModelInfo: ...

    async def load_adapter(self, adapter: AdapterSpec) -> ModelInfo: ...

    async def unload(self, name: str) -> None: ...


@dataclass(frozen=True)
class _New:
    """What the engine has, and nobody is told of yet."""

    one: Served
    source: Source
    info: ModelInfo


class Loading:
    """What is begun is brought to an end even if the caller leaves, so that engine and catalogue agree.

    One change is made at a time; others wait. Waiting until nobody is at work on what leaves holds up no change.
    """

    def __init__(
        self, catalogue: Catalogue, engine: LoadingEngine, in_flight: InFlight, sources: Sources
    ) -> None:
        self._catalogue, self._engine = catalogue, engine
        self._in_flight, self._sources = in_flight, sources
        self._numbers = count(1)
        self._lock = asyncio.Lock()
        self._working: set[asyncio.Task[Any]] = set()

    async def load(self, name: str, wanted: Wanted) -> None:
        """Serves a name, or what lies in its folder by now in the place of what it is; a base's adapters come along.

        Raises ModelNotFound (`param`: name or base), InvalidRequest (name, base, path), EngineFailed, Unavailable;
        nothing has changed then.
        """
        await self._finish(self._load(name, wanted))

    async def unload(self, name: str) -> None:
        """Takes no more requests for it; returns when those that it has are done and its weights are freed.

        Raises ModelNotFound, InvalidRequest (name), Unavailable; nothing has changed then.
        """
        await self._finish(self._unload(name))

    async def _load(self, name: str, wanted: Wanted) -> None:
        async with self._lock:
            source = self._sources.find(name, wanted)
            self._check(name, source)
            served, infos = self._catalogue.served, self._catalogue.infos
            adapters = [one.name for one in served.values() if one.base == name]
            replaced = [infos[each].name for each in (*adapters, name) if each in served]
            news: list[_New] = []
            try:
                await self._prepare(name, source, served.get(source.base or ""), news)
                for adapter in adapters:
                    await self._prepare(adapter, self._source(adapter), news[0].one, news)
            except Exception:
                self._retire([new.info.name for new in reversed(news)])
                raise
            for new in news:
                self._catalogue.put(new.one, new.info)
                self._catalogue.metrics.declare([(new.one.name, [task.name for task in new.one.tasks])])
                self._sources.loaded[new.one.name] = new.source
            self._retire(replaced)

    def _check(self, name: str, source: Source) -> None:
        """Raises InvalidRequest, ModelNotFound."""
        served = self._catalogue.served
        present = served.get(name)
        kind, allowed = ("a model", _NAME) if source.base is None else ("an adapter", _ADAPTER_NAME)
        if not re.fullmatch(allowed, name):
            others = " . /" if source.base is None else ""
            raise InvalidRequest(f"the name of {kind} has letters, digits, - _{others}, 128 at most", "name")
        if present is not None and (present.base is None) != (source.base is None):
            raise InvalidRequest(f"what is served as {name!r} is not {kind}", "name")
        if source.base is not None:
            base = served.get(source.base)
            if base is None:
                known = ", ".join(served)
                raise ModelNotFound(
                    f"there is no model {source.base[:100]!r}; served are {known}", param="base"
                )
            if base.base is not None:
                raise InvalidRequest(f"{base.name!r} is an adapter itself", "base")

    def _source(self, name: str) -> Source:
        return self._sources.find(name, Wanted())

    async def _prepare(self, name: str, source: Source, base: Served | None, news: list[_New]) -> None:
        """Has the engine read it; `base` is that of an adapter. Raises InvalidRequest that names path."""
        address = f"{name}:{next(self._numbers)}"
        folder, tasks, prompts = source.folder, source.tasks, source.prompts
        try:
            one = await asyncio.to_thread(read_served, name, folder, base, tasks, prompts)
        except (CheckpointError, ConfigError) as fault:
            raise InvalidRequest(str(fault), "path") from None
        if source.base is None:
            spec = ModelSpec(address, str(folder), source.weight, source.quantization)
            info = await self._engine.load_model(spec)
        else:
            below = news[0].info if news else self._catalogue.infos[source.base]
            info = await self._engine.load_adapter(AdapterSpec(address, below.name, str(folder)))
        news.append(_New(one, source, info))
        _log.info("%s was loaded from %s in %.2f s", name, folder, info.load_seconds)

    async def _unload(self, name: str) -> None:
        async with self._lock:
            served = self._catalogue.served
            if name not in served:
                known = ", ".join(served)
                raise ModelNotFound(f"there is no model {name[:100]!r}; served are {known}", param="model")
            one, info, source = served[name], self._catalogue.infos[name], self._sources.loaded.get(name)
            adapters = ", ".join(other.name for other in served.values() if other.base == name)
            if adapters:
                raise InvalidRequest(f"{name!r} is the base of {adapters}: unload these first", "name")
            if len(served) == 1:
                raise InvalidRequest(f"{name!r} is all that is served: load another model first", "name")
            self._catalogue.remove(name)
            self._sources.loaded.pop(name, None)
        await self._in_flight.until_left(info.name)
        try:
            await self._engine.unload(info.name)
        except InvalidRequest:
            _log.info("%s was gone with its engine process", name)
        except QuartetError:
            if name not in self._catalogue.served:
                self._catalogue.put(one, info)
                if source is not None:
                    self._sources.loaded[name] = source
            raise
        if name not in self._catalogue.served:
            self._catalogue.metrics.forget(name)
        _log.info("%s was unloaded", name)

    def _retire(self, addresses: Collection[str]) -> None:
        """Frees what nobody is told of any more, once nobody is at work on it."""
        if addresses:
            self._begin(self._free(addresses))

    async def _free(self, addresses: Collection[str]) -> None:
        for address in addresses:
            await self._in_flight.until_left(address)
        for address in addresses:
            while not self._in_flight.is_draining:
                try:
                    await self._engine.unload(address)
                except Unavailable as fault:
                    await asyncio.sleep(fault.retry_after or 1.0)
                    continue
                except QuartetError:
                    _log.info("%s was gone with its engine process", address)
                break

    async def _finish(self, work: Coroutine[Any, Any, Result]) -> Result:
        return await asyncio.shield(self._begin(work))

    def _begin(self, work: Coroutine[Any, Any, Result]) -> "asyncio.Task[Result]":
        task = asyncio.create_task(work)
        self._working.add(task)
        task.add_done_callback(self._working.discard)
        return task
