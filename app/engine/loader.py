"""What is served comes and goes while the engine runs: read by a thread, put in and taken out between two steps."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from app.engine.adapters import Adapters
from app.engine.admission import Served
from app.engine.faults import is_out_of_memory
from app.engine.models import LoadedModel, Models
from app.engine.protocol import ModelInfo, ModelSpec, served_name
from app.engine.questions import LoadAdapter, Loaded, LoadModel, Refused, Reply, Unload, Unloaded
from model.adapters import AdapterWeights
from model.config import CheckpointError

_log = logging.getLogger(__name__)

Load = LoadModel | LoadAdapter


@dataclass(frozen=True)
class _Read:
    """What came of reading: the weights, or a fault; None for one of ours."""

    question: Load
    outcome: LoadedModel | AdapterWeights | CheckpointError | None
    seconds: float


class Loader:
    """All but `_read` belongs to the engine's thread. One thing is read at a time, in the order of the questions."""

    def __init__(
        self, models: Models, adapters: Adapters, read_model: Callable[[ModelSpec], LoadedModel]
    ) -> None:
        """`read_model` raises CheckpointError, and looks at nothing that steps change."""
        self.wake: Callable[[], object] = lambda: None
        """Called, from another thread, when `settle` has something to do."""
        self._models, self._adapters, self._read_model = models, adapters, read_model
        self._waiting: deque[Load] = deque()
        self._reading: Load | None = None
        self._news: deque[_Read] = deque()
        self._leaving: list[tuple[Unload, Served]] = []
        self._replies: list[Reply] = []

    def load(self, question: Load) -> None:
        """Has weights read; what is asked for meanwhile waits for its turn."""
        expected = [_name(one) for one in (self._reading, *self._waiting) if one]
        leaving = [served.model for _, served in self._leaving if served.adapter is None]
        if _name(question) in (*self._models.served, *expected, *leaving):
            self._refuse(question, f"the name {_name(question)!r} is taken", "name")
        elif isinstance(question, LoadAdapter) and not self._has_base(question):
            self._refuse(question, f"there is no model {served_name(question.adapter.base)!r}", "base")
        else:
            self._waiting.append(question)
            self._read_next()

    def unload(self, question: Unload) -> None:
        """Takes no more sequences for a name; `settle` frees it when it has none left."""
        name = question.name
        on_it = self._models.adapters_on(name)
        if name not in self._models.served:
            self._refuse(question, f"there is no model {served_name(name)!r}", "name")
        elif on_it:
            self._refuse(question, f"{served_name(name)!r} is the base of {', '.join(on_it)}", "name")
        else:
            self._leaving.append((question, self._models.hide(name)))

    def settle(self, is_used: Callable[[Served], bool]) -> list[Reply]:
        """Puts in what has been read, takes out what `is_used` by no sequence any more, and tells of both."""
        if self._news:
            self._reading = None
            self._take(self._news.popleft())
        for leaving in sorted(
            self._leaving, key=lambda one: one[1].adapter is None
        ):  # adapters before their bases
            question, served = leaving
            if not is_used(served) and not self._is_looked_at(served):
                self._leaving.remove(leaving)
                if served.adapter is None:
                    self._models.remove(served.model)
                else:
                    self._adapters.detach(served)
                self._replies.append(Unloaded(question.id))
        self._read_next()
        replies, self._replies = self._replies, []
        return replies

    def _has_base(self, question: LoadAdapter) -> bool:
        base = self._models.served.get(question.adapter.base)
        return base is not None and base.adapter is None

    def _is_looked_at(self, served: Served) -> bool:
        """By the thread that reads, or, where it is a base, by an adapter that is leaving it."""
        reading = self._reading
        is_read_for = isinstance(reading, LoadAdapter) and reading.adapter.base == served.model
        others = [one for _, one in self._leaving if one.model == served.model and one is not served]
        return is_read_for or (served.adapter is None and bool(others))

    def _take(self, read: _Read) -> None:
        question, outcome = read.question, read.outcome
        try:
            if isinstance(outcome, CheckpointError):
                raise outcome
            info = self._put_in(question, outcome, read.seconds)
        except CheckpointError as fault:
            self._refuse(question, str(fault), "path")
            return
        if info is None:
            message = f"the engine failed to load {served_name(_name(question))!r}"
            self._replies.append(Refused(question.id, "internal", message))
        else:
            self._replies.append(Loaded(question.id, info))

    def _put_in(
        self, question: Load, weights: LoadedModel | AdapterWeights | None, seconds: float
    ) -> ModelInfo | None:
        """Raises CheckpointError for what does not fit in."""
        match question, weights:
            case LoadModel(), LoadedModel():
                return self._models.add(question.model, weights)
            case LoadAdapter(), AdapterWeights():
                if not self._has_base(question):
                    raise CheckpointError(
                        f"its base {served_name(question.adapter.base)!r} was unloaded meanwhile"
                    )
                return self._adapters.attach(question.adapter, weights, seconds)
        return None

    def _refuse(self, question: Load | Unload, message: str, param: str) -> None:
        self._replies.append(Refused(question.id, "invalid", message, param))

    def _read_next(self) -> None:
        while self._waiting and self._reading is None:
            question = self._waiting.popleft()
            if isinstance(question, LoadAdapter) and not self._has_base(question):
                self._refuse(question, f"there is no model {served_name(question.adapter.base)!r}", "base")
                continue
            self._reading = question
            threading.Thread(target=self._read, args=(question,), name="loader", daemon=True).start()

    def _read(self, question: Load) -> None:
        """The life of a thread."""
        started = time.perf_counter()
        outcome: LoadedModel | AdapterWeights | CheckpointError | None
        try:
            if isinstance(question, LoadModel):
                outcome = self._read_model(question.model)
            else:
                outcome = self._adapters.read(question.adapter)
        except CheckpointError as fault:
            outcome = fault
        except BaseException as fault:
            _log.exception("%s could not be read", _name(question))
            outcome = CheckpointError("the memory is too short for it") if is_out_of_memory(fault) else None
        self._news.append(_Read(question, outcome, time.perf_counter() - started))
        self.wake()


def _name(question: Load) -> str:
    return question.model.name if isinstance(question, LoadModel) else question.adapter.name
