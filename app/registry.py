"""The composition root: settings → served models (name, tokenizer, tasks) over one engine client.

Owns the life of the service as well: loading, ready, draining. Knows no HTTP.
"""

import asyncio
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, TypeVar

from msgspec.structs import replace

from app.adapters import AdapterEngine, Adapters
from app.caller import Caller
from app.chrome_trace import chrome_trace
from app.config import Settings
from app.engine.protocol import ModelInfo, Ready
from app.engine.questions import MAX_TRACED_STEPS, TracedStep
from app.errors import InvalidRequest, ModelNotFound, QuartetError, Unavailable, UnsupportedTask
from app.metrics import Metrics
from app.tasks.base import Engine, Task
from app.tasks.language_id import COMMON, LanguageDetector
from app.tasks.prompts import make_prompts
from app.tasks.served import EVERY_TASK, WANTED_CHECKPOINT, Served, best_first, read_served
from app.tasks.token_ids import TokenIds
from app.tasks.translators import spoken

_POOL_THREADS = 2
_log = logging.getLogger("quartet.registry")

AnyTask = TypeVar("AnyTask", bound=Task)


class EngineProcess(Engine, AdapterEngine, Protocol):
    """What the registry needs of the engine's client beside what tasks use."""

    @property
    def is_ready(self) -> bool: ...

    @property
    def num_requests(self) -> int: ...

    def check_room(self, caller: Caller) -> None: ...

    async def start(self) -> Ready: ...

    async def stop(self, drain_timeout: float) -> None: ...

    async def trace(self, steps: int) -> list[TracedStep]: ...


class Registry:
    """Finds the task that answers a request. One per process; all of its methods run on the event loop."""

    def __init__(
        self,
        version: str,
        served: Sequence[Served],
        metrics: Metrics,
        defaults: Mapping[str, str] | None = None,
    ) -> None:
        self.version = version
        self.served = {one.name: one for one in served}
        self.metrics = metrics
        self.created = int(time.time())
        self.ready: Ready | None = None
        self.is_draining = False
        self._defaults = defaults or {}
        self._engine: EngineProcess | None = None
        self._tasks: dict[tuple[str, str], Task] = {}
        self._pool = ThreadPoolExecutor(_POOL_THREADS, thread_name_prefix="tasks")
        self.detector = LanguageDetector(
            self._pool, COMMON.union(*(spoken(one.languages()) for one in served))
        )
        self._idle = asyncio.Event()
        self._idle.set()
        self._working: set[asyncio.Task[Any]] = set()
        self._stopped: set[asyncio.Task[Any]] = set()
        metrics.declare((one.name, [task.name for task in one.tasks]) for one in served)

    async def start(self, engine: EngineProcess) -> Ready:
        """Loads the models; returns once requests can be served."""
        self._engine = engine
        ready = await engine.start()
        self._adapters = Adapters(self, engine, self._defaults.values())
        self.ready = replace(ready, models=[])
        infos = {info.name: info for info in ready.models}
        for one in self.served.values():
            self.add(one, infos[one.name])
        return ready

    def add(self, one: Served, info: ModelInfo) -> None:
        """Answers requests for a model that the engine has."""
        ready, engine = self.ready, self._engine
        assert ready is not None
        assert engine is not None
        self.served[one.name] = one
        model = one.task_model(info)
        for task in one.tasks:
            self._tasks[task.name, one.name] = task(model, engine, self._pool)
        self.ready = replace(ready, models=[*ready.models, info])
        self.metrics.load_seconds.labels(info.name).set(info.load_seconds)
        self.metrics.kv_blocks.labels(info.name).set(info.num_blocks)

    def remove(self, name: str) -> ModelInfo:
        """Takes no more requests for a model; returns what was known of it."""
        assert self.ready is not None
        for task in self.served.pop(name).tasks:
            del self._tasks[task.name, name]
        info = next(info for info in self.ready.models if info.name == name)
        self.ready = replace(self.ready, models=[one for one in self.ready.models if one is not info])
        return info

    async def stop(self) -> None:
        """Ends the engine process at once; `drain` comes before."""
        if self._engine is not None:
            await self._engine.stop(0.0)
        self._pool.shutdown(wait=False, cancel_futures=True)

    def find(self, kind: type[AnyTask], model: str | None) -> AnyTask:
        """The task of the named model, or of the task's default model."""
        name = model if model is not None else self.default_model(kind.name)
        if name is None:
            raise UnsupportedTask(f"no served model can {kind.name}: it takes {WANTED_CHECKPOINT[kind.name]}")
        one = self._find_model(name)
        if kind.name not in [task.name for task in one.tasks]:
            can = ", ".join(task.name for task in one.tasks)
            wanted = WANTED_CHECKPOINT[kind.name]
            raise UnsupportedTask(
                f"{name!r} cannot {kind.name}, only {can}: it takes {wanted}", param="model"
            )
        task = self._tasks.get((kind.name, name))
        if task is None:
            raise Unavailable("the models are being loaded", code="loading", retry_after=1.0)
        assert isinstance(task, kind)
        return task

    def token_ids(self, model: str | None) -> TokenIds:
        """Of the named model, or of the first one; there is always one, and no engine is needed."""
        return TokenIds(self.model(model), self._pool)

    def default_model(self, task: str) -> str | None:
        """As configured; else the best that can do it."""
        if task in self._defaults:
            return self._defaults[task]
        return next((one.name for one in self.able(task)), None)

    def model(self, name: str | None) -> Served:
        """The named model, or the first one that is served. Raises ModelNotFound."""
        return self._find_model(next(iter(self.served)) if name is None else name)

    def able(self, task: str) -> list[Served]:
        """The models that can do it, the best first."""
        return best_first(self.served.values(), task)

    def refusals(self) -> list[str]:
        """Why work is not taken; empty when it is. What comes while the engine starts again waits for it."""
        reasons = []
        if self.is_draining:
            reasons.append("the service is shutting down")
        if self.ready is None:
            reasons.append("the models are being loaded")
        return reasons

    def check_room(self, caller: Caller) -> None:
        """Raises Overloaded where the queue takes nothing more of this caller's sender."""
        if self._engine is not None and not self.is_draining:
            self._engine.check_room(caller)

    def not_ready_reasons(self) -> list[str]:
        """Why others should get the work that may come; empty when this is the place for it."""
        reasons = self.refusals()
        if self.ready is not None and (self._engine is None or not self._engine.is_ready):
            reasons.append("the engine is being started again")
        return reasons

    @contextmanager
    def admit(self, handler: "asyncio.Task[Any] | None") -> Iterator[None]:
        """Counts a request in flight. Raises Unavailable while draining."""
        if self.is_draining or handler is None:
            raise Unavailable("the service is shutting down", code="draining", retry_after=5.0)
        self._working.add(handler)
        self._idle.clear()
        try:
            yield
        finally:
            self._working.discard(handler)
            self._stopped.discard(handler)
            if not self._working:
                self._idle.set()

    async def drain(self, limit: float) -> None:
        """Takes no new work, waits for what is in flight, and cancels what is not done in time."""
        self.is_draining = True
        try:
            async with asyncio.timeout(limit):
                await self._idle.wait()
        except TimeoutError:
            _log.warning("drain limit reached: %d requests are cut off", len(self._working))
            self._stopped = set(self._working)
            for handler in self._stopped:
                handler.cancel()
            await self._idle.wait()

    def drain_error(self, handler: "asyncio.Task[Any]") -> QuartetError | None:
        """What a handler that `drain` cancelled tells its client; None for any other."""
        if handler not in self._stopped:
            return None
        return Unavailable(
            "the service shut down before the request was done", code="draining", retry_after=5.0
        )

    def exposition(self) -> bytes:
        """The metrics, with the engine's state as it is now."""
        is_up = self._engine is not None and self.ready is not None and self._engine.is_ready
        self.metrics.engine_up.set(1 if is_up else 0)
        if self._engine is not None and not self._engine.num_requests:
            self.metrics.set_idle(self.served)  # the engine reports with its steps, and an abort is none
        return self.metrics.exposition()

    async def trace(self, steps: int) -> dict[str, Any]:
        """The engine's last steps as Chrome trace JSON. Raises InvalidRequest, Unavailable."""
        if not 1 <= steps <= MAX_TRACED_STEPS:
            raise InvalidRequest(f"steps must be 1 to {MAX_TRACED_STEPS}", param="steps")
        return chrome_trace(await self._running().trace(steps))

    async def load_adapter(self, name: str, base: str, folder: Path) -> ModelInfo:
        """Serves one more adapter while everything goes on; once begun it is brought to an end.

        Raises InvalidRequest (`param`: name or path), ModelNotFound (base), EngineFailed, Unavailable.
        """
        self._running()
        return await self._adapters.load(name, self._find_model(base, "base"), folder)

    async def unload(self, name: str) -> None:
        """Takes no more requests for an adapter; returns when those that it has are done and its weights are freed.

        Raises InvalidRequest for what is no adapter or somebody's default, ModelNotFound, Unavailable.
        """
        self._running()
        await self._adapters.unload(self._find_model(name))

    def _running(self) -> EngineProcess:
        if self._engine is None or self.ready is None:
            raise Unavailable("the models are being loaded", code="loading", retry_after=1.0)
        return self._engine

    def model_card(self, name: str) -> dict[str, Any]:
        """OpenAI's model object and, beside it, what we know."""
        one = self._find_model(name)
        card: dict[str, Any] = {
            "id": name,
            "object": "model",
            "created": self.created,
            "owned_by": "quartet",
            "tasks": [task.name for task in one.tasks],
            "kind": one.config.kind,
        }
        if one.base is not None:
            card["base"] = one.base
        if one.config.labels:
            card["labels"] = list(one.config.labels)
        if languages := one.languages():
            card["languages"] = languages
        info = next((info for info in self.ready.models if info.name == name), None) if self.ready else None
        if info is not None:
            card["max_model_len"] = info.max_model_len
        return card

    def model_cards(self) -> list[dict[str, Any]]:
        """All, in the order they are served."""
        return [self.model_card(name) for name in self.served]

    def info(self) -> dict[str, Any]:
        """What runs here: version, device, models, default models of the tasks."""
        names = [task.name for task in EVERY_TASK]
        return {
            "name": "quartet",
            "version": self.version,
            "device": self.ready.device if self.ready else None,
            "models": [self._details(one) for one in self.served.values()],
            "default_models": {n: self.default_model(n) for n in names if self.default_model(n) is not None},
        }

    def _details(self, one: Served) -> dict[str, Any]:
        info = (
            next((info for info in self.ready.models if info.name == one.name), None) if self.ready else None
        )
        card = self.model_card(one.name)
        if info is None:
            return card
        told = ("dtype", "quantization", "device", "parameters", "bytes", "load_seconds", "block_size")
        return card | {name: getattr(info, name) for name in told} | {"kv_cache_blocks": info.num_blocks}

    def _find_model(self, name: str, param: str = "model") -> Served:
        one = self.served.get(name)
        if one is None:
            known = ", ".join(self.served)
            raise ModelNotFound(f"there is no model {name[:100]!r}; served are {known}", param=param)
        return one


def build_registry(settings: Settings, metrics: Metrics, version: str) -> Registry:
    """Reads every folder but no weights. Raises CheckpointError or ConfigError with one line."""
    served: dict[str, Served] = {}
    prompts = {
        one.name: make_prompts(settings.prompts, one.prompts, one.name)
        for one in (*settings.models, *settings.adapters)
    }
    for model in settings.models:
        served[model.name] = read_served(model.name, model.folder, None, model.tasks, prompts[model.name])
    for adapter in settings.adapters:
        base, own = served[adapter.base], prompts[adapter.name]
        served[adapter.name] = read_served(adapter.name, adapter.folder, base, adapter.tasks, own)
    return Registry(version, list(served.values()), metrics, settings.default_models)
