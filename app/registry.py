"""The composition root: settings → served models (name, tokenizer, tasks) over one engine client.

Owns the life of the service as well: loading, ready, draining. Knows no HTTP.
"""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from app.caller import Caller
from app.cards import details, model_card
from app.chrome_trace import chrome_trace
from app.config import AdapterSettings, ModelSettings, Settings
from app.engine.protocol import ModelInfo, Ready
from app.engine.questions import MAX_TRACED_STEPS, TracedStep
from app.errors import InvalidRequest, ModelNotFound, Unavailable, UnsupportedTask
from app.in_flight import InFlight
from app.loading import Loading, LoadingEngine
from app.metrics import Metrics
from app.sources import Source, Sources, Wanted
from app.tasks.base import Engine, Task
from app.tasks.language_id import COMMON, LanguageDetector
from app.tasks.prompts import make_prompts
from app.tasks.served import EVERY_TASK, WANTED_CHECKPOINT, Served, best_first, read_served
from app.tasks.token_ids import TokenIds
from app.tasks.translators import spoken

_POOL_THREADS = 2

AnyTask = TypeVar("AnyTask", bound=Task)


class EngineProcess(Engine, LoadingEngine, Protocol):
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
        sources: Sources | None = None,
    ) -> None:
        """`defaults` say by task who answers where no model is named, while that one is served."""
        self.version = version
        self.served = {one.name: one for one in served}
        self.infos: dict[str, ModelInfo] = {}
        self.metrics = metrics
        self.ready: Ready | None = None
        self.in_flight = InFlight()
        self._defaults, self._sources = defaults or {}, sources or Sources()
        self._started, self._loaded = int(time.time()), dict[str, int]()
        self._engine: EngineProcess | None = None
        self._tasks: dict[tuple[str, str], Task] = {}
        self._pool = ThreadPoolExecutor(_POOL_THREADS, thread_name_prefix="tasks")
        self._spoken = frozenset[str]().union(*(spoken(one.languages()) for one in served))
        self.detector = LanguageDetector(self._pool, COMMON | self._spoken)
        metrics.declare((one.name, [task.name for task in one.tasks]) for one in served)

    async def start(self, engine: EngineProcess) -> Ready:
        """Loads the models; returns once requests can be served."""
        self._engine = engine
        ready = await engine.start()
        self._loading = Loading(self, engine, self.in_flight, self._sources)
        infos = {info.name: info for info in ready.models}
        for one in self.served.values():
            self.put(one, infos[one.name])
        self.ready = ready
        return ready

    def put(self, one: Served, info: ModelInfo) -> None:
        """Answers requests for a model that the engine has, in the place of another of its name, if there is one."""
        engine, name = self._engine, one.name
        assert engine is not None
        if name in self.infos:
            self._tasks = {key: task for key, task in self._tasks.items() if key[1] != name}
        self.served[name], self.infos[name] = one, info
        if self.ready is not None:
            self._loaded.setdefault(info.name, int(time.time()))
        model = one.task_model(info)
        for task in one.tasks:
            self._tasks[task.name, name] = task(model, engine, self._pool)
        new = spoken(one.languages()) - self._spoken
        if new:
            self._spoken |= new
            self.detector.learn(new)
        self.metrics.load_seconds.labels(name).set(info.load_seconds)
        self.metrics.kv_blocks.labels(name).set(info.num_blocks)

    def remove(self, name: str) -> None:
        """Takes no more requests for a model."""
        for task in self.served.pop(name).tasks:
            del self._tasks[task.name, name]
        del self.infos[name]

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
        self.in_flight.hold(task.model.address)
        return task

    def token_ids(self, model: str | None) -> TokenIds:
        """Of the named model, or of the first one; there is always one, and no engine is needed."""
        return TokenIds(self.model(model), self._pool)

    def default_model(self, task: str) -> str | None:
        """As configured, where that is served; else the best that can do it."""
        if self._defaults.get(task) in self.served:
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
        if self.in_flight.is_draining:
            reasons.append("the service is shutting down")
        if self.ready is None:
            reasons.append("the models are being loaded")
        return reasons

    def check_room(self, caller: Caller) -> None:
        """Raises Overloaded where the queue takes nothing more of this caller's sender."""
        if self._engine is not None and not self.in_flight.is_draining:
            self._engine.check_room(caller)

    def not_ready_reasons(self) -> list[str]:
        """Why others should get the work that may come; empty when this is the place for it."""
        reasons = self.refusals()
        if self.ready is not None and (self._engine is None or not self._engine.is_ready):
            reasons.append("the engine is being started again")
        return reasons

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

    async def load(self, name: str, wanted: Wanted) -> None:
        """Serves a model or an adapter while everything goes on, in the place of what is served under its name, if
        anything is; once begun it is brought to an end.

        Raises ModelNotFound (`param`: name or base), InvalidRequest (name, base, path), EngineFailed, Unavailable.
        """
        self._running()
        await self._loading.load(name, wanted)

    async def unload(self, name: str) -> None:
        """Takes no more requests for it; returns when those that it has are done and its weights are freed.

        Raises ModelNotFound, InvalidRequest (name) for the last one and for a base that adapters sit on, Unavailable.
        """
        self._running()
        await self._loading.unload(name)

    def _running(self) -> EngineProcess:
        if self._engine is None or self.ready is None:
            raise Unavailable("the models are being loaded", code="loading", retry_after=1.0)
        return self._engine

    def model_card(self, name: str) -> dict[str, Any]:
        """OpenAI's model object and, beside it, what we know."""
        one, info = self._find_model(name), self.infos.get(name)
        return model_card(one, info, self._loaded.get(info.name if info else "", self._started))

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
            "models": [self.model_card(name) | details(self.infos.get(name)) for name in self.served],
            "default_models": {n: self.default_model(n) for n in names if self.default_model(n) is not None},
        }

    def _find_model(self, name: str, param: str = "model") -> Served:
        one = self.served.get(name)
        if one is None:
            known = ", ".join(self.served)
            raise ModelNotFound(f"there is no model {name[:100]!r}; served are {known}", param=param)
        return one


def build_registry(settings: Settings, metrics: Metrics, version: str) -> Registry:
    """Reads every folder but no weights. Raises CheckpointError or ConfigError with one line."""
    sources: dict[str, Source] = {}
    served: dict[str, Served] = {}
    entries: list[ModelSettings | AdapterSettings] = [*settings.models, *settings.adapters]
    for one in entries:
        prompts = make_prompts(settings.prompts, one.prompts, one.name)
        if isinstance(one, ModelSettings):
            quantization = one.quantization or settings.quantization
            source = Source(one.folder, None, one.tasks, prompts, one.weight, quantization)
        else:
            source = Source(one.folder, one.base, one.tasks, prompts)
        base = served.get(source.base or "")
        sources[one.name] = source
        served[one.name] = read_served(one.name, one.folder, base, one.tasks, prompts)
    known = Sources(sources, make_prompts(settings.prompts, {}, ""), settings.quantization)
    return Registry(version, list(served.values()), metrics, settings.default_models, known)
