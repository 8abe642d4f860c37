"""Adapters that come and go while the engine runs: read by a thread, put on their base and taken off between two steps.

In a step, sequences of one base share the products of its weights, whichever adapters they go through.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import msgspec

from app.engine.admission import Served
from app.engine.determinism import check_products
from app.engine.protocol import AdapterSpec, ModelInfo
from app.engine.questions import LoadAdapter, Loaded, Refused, Reply, UnloadAdapter, Unloaded
from model.adapters import AdapterWeights, read_adapter, remove_adapter
from model.config import CheckpointError
from model.transformer import Transformer

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Read:
    """What came of reading: the weights, or a fault; None for one of ours."""

    question: LoadAdapter
    outcome: AdapterWeights | CheckpointError | None
    seconds: float


class Adapters:
    """Keeps `served` and `infos`, by served name, which hold the models already. All but `_read` belongs to the
    engine's thread.

    Weights are on a model under a name that no other adapter has had, so that an adapter may be replaced while
    sequences still go through it, and nobody finds blocks that were computed by another of its name. While the
    thread looks at a model, no adapter of any is put on or taken off.
    """

    def __init__(
        self,
        models: Mapping[str, Transformer],
        served: MutableMapping[str, Served],
        infos: MutableMapping[str, ModelInfo],
        is_deterministic: bool = False,
    ) -> None:
        self.wake: Callable[[], object] = lambda: None
        """Called, from another thread, when `settle` has something to do."""
        self._models, self._served, self._infos = models, served, infos
        self._is_deterministic = is_deterministic
        self._numbers = count(1)
        self._waiting: deque[LoadAdapter] = deque()
        self._reading: LoadAdapter | None = None
        self._news: deque[_Read] = deque()
        self._leaving: list[tuple[UnloadAdapter, Served]] = []
        self._replies: list[Reply] = []

    def add(self, spec: AdapterSpec) -> None:
        """Loads one at once. Raises CheckpointError."""
        if spec.base not in self._models:
            raise CheckpointError(f"adapter {spec.name}: its base {spec.base!r} is not served")
        started = time.perf_counter()
        weights = self._read_weights(spec)
        self._attach(spec, weights, time.perf_counter() - started)

    def load(self, question: LoadAdapter) -> None:
        """Has an adapter read; those that are asked for meanwhile wait for their turn."""
        spec = question.adapter
        expected = [self._reading, *self._waiting]
        if spec.name in self._served or spec.name in [one.adapter.name for one in expected if one]:
            self._refuse(question, f"the name {spec.name!r} is taken", "name")
        elif spec.base not in self._models:
            self._refuse(question, f"there is no model {spec.base!r}", "base")
        else:
            self._waiting.append(question)
            self._read_next()

    def unload(self, question: UnloadAdapter) -> None:
        """Takes no more sequences for an adapter; `settle` frees it when it has none left."""
        served = self._served.get(question.name)
        if served is None or served.adapter is None:
            self._refuse(question, f"there is no adapter {question.name!r}", "name")
            return
        del self._served[question.name], self._infos[question.name]
        self._leaving.append((question, served))

    def settle(self, is_used: Callable[[Served], bool]) -> list[Reply]:
        """Puts on what has been read, takes off what `is_used` by no sequence any more, and tells of both."""
        if self._news:
            self._reading = None
            self._take(self._news.popleft())
        if self._leaving and self._reading is None:
            for leaving in list(self._leaving):
                question, served = leaving
                if served.adapter is not None and not is_used(served):
                    self._leaving.remove(leaving)
                    remove_adapter(self._models[served.model], served.adapter)
                    self._replies.append(Unloaded(question.id))
        self._read_next()
        replies, self._replies = self._replies, []
        return replies

    def _take(self, read: _Read) -> None:
        question, outcome = read.question, read.outcome
        if isinstance(outcome, AdapterWeights):
            info = self._attach(question.adapter, outcome, read.seconds)
            self._replies.append(Loaded(question.id, info))
        elif isinstance(outcome, CheckpointError):
            self._refuse(question, str(outcome), "path")
        else:
            message = f"the engine failed to load the adapter {question.adapter.name!r}"
            self._replies.append(Refused(question.id, "internal", message))

    def _read_weights(self, spec: AdapterSpec) -> AdapterWeights:
        """Raises CheckpointError."""
        weights = read_adapter(self._models[spec.base], spec.name, Path(spec.path))
        if self._is_deterministic:
            check_products(spec.name, weights.packed)
        return weights

    def _attach(self, spec: AdapterSpec, weights: AdapterWeights, seconds: float) -> ModelInfo:
        slot = f"{spec.name}:{next(self._numbers)}"
        weights.attach(self._models[spec.base], slot)
        limit = self._served[spec.base].max_model_len
        self._served[spec.name] = Served(spec.base, slot, weights.config, limit)
        info = msgspec.structs.replace(
            self._infos[spec.base],
            name=spec.name,
            base=spec.base,
            parameters=sum(parameter.numel() for parameter in weights.parameters),
            bytes=sum(parameter.nbytes for parameter in weights.parameters),
            load_seconds=seconds,
        )
        self._infos[spec.name] = info
        return info

    def _refuse(self, question: LoadAdapter | UnloadAdapter, message: str, param: str) -> None:
        self._replies.append(Refused(question.id, "invalid", message, param))

    def _read_next(self) -> None:
        if self._waiting and self._reading is None:
            self._reading = self._waiting.popleft()
            threading.Thread(target=self._read, args=(self._reading,), name="adapter", daemon=True).start()

    def _read(self, question: LoadAdapter) -> None:
        """The life of a thread."""
        started, spec = time.perf_counter(), question.adapter
        outcome: AdapterWeights | CheckpointError | None
        try:
            outcome = self._read_weights(spec)
        except CheckpointError as fault:
            outcome = fault
        except BaseException:
            _log.exception("the adapter %s could not be read", spec.name)
            outcome = None
        self._news.append(_Read(question, outcome, time.perf_counter() - started))
        self.wake()
