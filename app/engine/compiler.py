"""Sequences that wait for their constraints: tried, compiled and kept, off the engine's loop.

The engine hands a sequence over and takes it back with its matcher; meanwhile all others go on.
"""

import logging
import queue
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable
from pathlib import Path

from app.engine.constraint import Grammar, Matcher, Vocabulary, compile_constraint, source_for
from app.engine.grammar import ConstraintError, fault_line
from app.engine.masks import start_thread
from app.engine.protocol import Constraint, ConstraintKind, Failed, GenerateRequest
from app.engine.sequence import Sequence
from app.engine.trial import try_out

MAX_KEPT = 16
"""Compiled and refused constraints that are remembered."""
_NUM_THREADS = 2

_log = logging.getLogger(__name__)

_Key = tuple[str, ConstraintKind, str, bool]
"""Model, kind, text, whether the text opens what is decoded."""
_Outcome = Grammar | ConstraintError | None
"""None for a fault of ours, which is not remembered."""


class Compiler:
    """All but `_work` belongs to the engine's thread."""

    def __init__(self) -> None:
        self.wake: Callable[[], object] = lambda: None
        """Called, from another thread, when there is something to `take`."""
        self._sources: dict[str, tuple[Path, int]] = {}
        self._kept: OrderedDict[_Key, Grammar | ConstraintError] = OrderedDict()
        self._waiting: dict[_Key, list[Sequence]] = {}
        self._jobs: queue.SimpleQueue[tuple[_Key, Constraint, bool]] = queue.SimpleQueue()
        self._news: deque[tuple[_Key, _Outcome]] = deque()
        self._num_threads = 0
        self._vocabularies: dict[str, Vocabulary] = {}
        self._lock = threading.Lock()

    @property
    def has_news(self) -> bool:
        """Would `take` return anything?"""
        return bool(self._news)

    @property
    def waiting(self) -> list[Sequence]:
        """Sequences that were handed over and not yet taken back."""
        return [sequence for sequences in self._waiting.values() for sequence in sequences]

    def add_model(self, model: str, folder: Path, vocab_size: int) -> None:
        """Its sequences may come; the tokenizer is read with the first of them."""
        self._sources[model] = folder, vocab_size

    def remove_model(self, model: str) -> None:
        """No sequence of it waits, and none will come."""
        del self._sources[model]
        self._vocabularies.pop(model, None)
        for key in [key for key in self._kept if key[0] == model]:
            del self._kept[key]

    def hold(self, sequence: Sequence) -> None:
        """Takes a sequence over until its constraint is compiled."""
        constraint = _constraint(sequence)
        key = (sequence.model, constraint.kind, constraint.text, constraint.opens_text)
        if key in self._waiting:
            self._waiting[key].append(sequence)
            return
        self._waiting[key] = [sequence]
        kept = self._kept.get(key)
        if kept is None or (isinstance(kept, Grammar) and kept.is_spent):
            if self._num_threads < _NUM_THREADS:
                self._num_threads += 1
                start_thread(self._work, "constraints")
            self._jobs.put((key, constraint, isinstance(kept, Grammar)))
        else:
            self._news.append((key, kept))

    def drop(self, ids: Iterable[int]) -> None:
        """Nobody waits for these any more; unknown ids are no error."""
        dropped = set(ids)
        for sequences in self._waiting.values():
            sequences[:] = [sequence for sequence in sequences if sequence.id not in dropped]

    def take(self) -> tuple[list[Sequence], list[Failed]]:
        """Sequences that have their matchers now, and those that cannot have one."""
        ready: list[Sequence] = []
        refused: list[Failed] = []
        while self._news:
            key, outcome = self._news.popleft()
            if outcome is not None and key[0] in self._sources:
                self._kept[key] = outcome
                self._kept.move_to_end(key)
                if len(self._kept) > MAX_KEPT:
                    self._kept.popitem(last=False)
            for sequence in self._waiting.pop(key):
                param = _constraint(sequence).param
                if isinstance(outcome, Grammar) and outcome.fault is None:
                    sequence.matcher = Matcher(outcome, param)
                    for token_id in _request(sequence).said:
                        sequence.matcher.advance(token_id)
                    ready.append(sequence)
                else:
                    refused.append(_refusal(sequence.id, param, outcome))
        return ready, refused

    def _work(self) -> None:
        """The life of a thread."""
        while True:
            key, constraint, is_tried = self._jobs.get()
            outcome: _Outcome
            try:
                outcome = self._compile(key[0], constraint, is_tried=is_tried)
            except ConstraintError as fault:
                outcome = ConstraintError(fault_line(str(fault), constraint.kind))
            except BaseException:
                _log.exception("a constraint of the kind %s could not be compiled", constraint.kind)
                outcome = None
            self._news.append((key, outcome))
            self.wake()

    def _compile(self, model: str, constraint: Constraint, *, is_tried: bool) -> Grammar:
        with self._lock:
            vocabulary, source = self._vocabularies.get(model), self._sources.get(model)
            if vocabulary is None:
                if source is None:
                    raise ConstraintError("nobody waits for it any more")
                vocabulary = self._vocabularies[model] = Vocabulary.read(*source)
        try:
            grammar = source_for(constraint, vocabulary)
        except RecursionError:
            raise ConstraintError("is nested too deeply") from None
        if not is_tried:
            try_out(grammar)
        return compile_constraint(constraint, vocabulary)


def _refusal(sequence_id: int, param: str, outcome: _Outcome) -> Failed:
    if outcome is None:
        return Failed(sequence_id, "internal", f"the engine could not compile {param}")
    fault = outcome.fault if isinstance(outcome, Grammar) else outcome
    return Failed(sequence_id, "invalid", f"{param}: {fault}", param)


def _request(sequence: Sequence) -> GenerateRequest:
    assert isinstance(sequence.request, GenerateRequest)
    return sequence.request


def _constraint(sequence: Sequence) -> Constraint:
    constraint = _request(sequence).constraint
    assert constraint is not None
    return constraint
