"""The journal of the border: what is in flight, within its bounds, with the seed and the place of each answer.

Knows neither the process nor asyncio: answers leave through the function that each request came with.
"""

import hashlib
import itertools
import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from app.caller import Caller
from app.engine.line import Line
from app.engine.protocol import Answer, Failed, GenerateRequest, Request, StepOutputs, Tokens
from app.engine.throughput import Throughput
from app.engine.turns import Turns
from app.errors import EngineFault, InvalidRequest, Overloaded, QuartetError, Unavailable

MOST_DEATHS = 2
"""What was there when so many engines died, and got no further in between, is tried by itself."""
REFUSED_SECONDS = 600.0
KEPT = 8
"""The part of the queue that is kept for senders who hold no more than such a part."""

Sink = Callable[[tuple[int, Answer] | QuartetError], None]


@dataclass
class Entry:
    """A request in flight: as it was asked for and as it was sent, what it may cost in tokens, its place among those
    sent together, and what it has said.

    `furthest` is how many tokens it had when an engine died in a step with it, -1 before; `num_deaths` counts how often
    that was no further than before.
    """

    asked: Request
    request: Request
    cost: int
    place: int
    sink: Sink
    caller: Caller
    said: list[int] = field(default_factory=list)
    furthest: int = -1
    num_deaths: int = 0

    def note_death(self, length: int) -> bool:
        """An engine died in a step in which this had so many tokens. Whether it is to blame: it was by itself, as it
        had been there at two deaths."""
        if length > self.furthest:
            self.furthest, self.num_deaths = length, 1
            return False
        self.num_deaths += 1
        return self.num_deaths > MOST_DEATHS and self.request.alone_until is not None

    def again(self) -> Request:
        """What another engine is to be told, to go on behind what was said."""
        self.request = msgspec.structs.replace(
            self.request, alone_until=self.furthest if self.num_deaths >= MOST_DEATHS else None
        )
        if isinstance(self.request, GenerateRequest) and self.said:
            # What is told of a prompt was told with the first token.
            params = msgspec.structs.replace(self.request.params, prompt_logprobs=None)
            self.request = msgspec.structs.replace(self.request, said=list(self.said), params=params)
        return self.request


class Journal:
    """What is in flight, with all that it takes to do it again."""

    def __init__(self, max_requests: int, max_tokens: int, max_wait: float = math.inf) -> None:
        self.entries: dict[int, Entry] = {}
        self.num_tokens = 0
        self._max_requests, self._max_tokens, self._max_wait = max_requests, max_tokens, max_wait
        self._ids = itertools.count(1)
        self._turns, self._throughput = Turns(), Throughput()
        self._lines: dict[str, Line] = {}  # by the kind of caller, where somebody waits
        self._refused: dict[bytes, float] = {}  # until when, by what is asked for
        self._forsaken: set[str] = set()

    def admit(self, requests: Sequence[Request], sink: Sink, caller: Caller | None = None) -> list[Request]:
        """All of them with ids, seeds and turns, or none.

        Raises Overloaded, Unavailable for weights that are gone, InvalidRequest for what never fits, EngineFault for
        what has ended the engine before.
        """
        self._check_refused(requests)
        if not self._forsaken.isdisjoint(request.model for request in requests):
            raise _replaced()
        costs = [cost(request) for request in requests]
        caller = caller or Caller()
        self.check_room(len(requests), sum(costs), caller)
        admitted, now = [], time.monotonic()
        if requests and caller not in self._turns:
            self._lines.setdefault(caller.kind, Line()).join(caller, now)
        for place, (asked, tokens) in enumerate(zip(requests, costs, strict=True)):
            behind = self._turns.join(caller, asked.priority, tokens)
            request = _prepared(asked, next(self._ids), behind)
            self.entries[request.id] = Entry(asked, request, tokens, place, sink, caller)
            admitted.append(request)
        now = time.monotonic()
        if caller.timeline is not None:
            caller.timeline.submit(now, requests)
        self.num_tokens += sum(costs)
        self._throughput.resume(now)
        return admitted

    def check_room(self, requests: int, tokens: int, caller: Caller) -> None:
        """Raises InvalidRequest where there can never be room for so much, Overloaded where there is none now."""
        most = (self._max_requests, self._max_tokens)
        news = (requests, tokens)
        if any(_excess(0, 0, new, limit) > 0 for new, limit in zip(news, most, strict=True)):
            raise InvalidRequest(
                f"{requests} sequences of {tokens} tokens (prompts and completions) at once are more"
                f" than the queue takes from one sender: {_share(most[0])} and {_share(most[1])}",
                code="too_large",
            )
        now = time.monotonic()
        held = self._turns.held(caller)
        excess = [
            _excess(*each)
            for each in zip((len(self.entries), self.num_tokens), held, news, most, strict=True)
        ]
        if max(excess) > 0:
            raise Overloaded("the queue is full", retry_after=self._throughput.promise(now, *excess))
        line = None if caller in self._turns else self._lines.get(caller.kind)
        if line and (late := line.excess(caller, self._max_wait, now)):
            raise Overloaded(
                f"it would wait for more than {self._max_wait:g} s", retry_after=line.promise(now, late)
            )

    def receive(self, step: StepOutputs) -> None:
        """Takes what came out of an engine step to whoever waits for it."""
        for request_id in step.begun:
            entry = self.entries.get(request_id)
            if entry is not None and entry.caller.timeline is not None:
                entry.caller.timeline.begin(step.started)
        for request_id in step.preempted:
            entry = self.entries.get(request_id)
            if entry is not None and entry.caller.timeline is not None:
                entry.caller.timeline.preempt()
        for answer in step.outputs:
            self.deliver(answer)

    def deliver(self, answer: Answer) -> None:
        """Hands an answer to whoever waits; the last one of a request ends it."""
        entry = self.entries.get(answer.id)
        if entry is not None:
            now = time.monotonic()
            if line := self._lines.get(entry.caller.kind):
                line.begin(entry.caller, now)
            if entry.caller.timeline is not None and isinstance(answer, Tokens):
                entry.caller.timeline.say(now)
            if is_end(answer):
                if not isinstance(answer, Failed):
                    self._throughput.note(now, entry.cost)
                self.release(answer.id)
            elif isinstance(answer, Tokens):
                entry.said += answer.token_ids
            entry.sink((entry.place, answer))

    def note_restart(self) -> None:
        """Another engine goes on with what is in flight."""
        timelines = [entry.caller.timeline for entry in self.entries.values()]
        for timeline in {id(one): one for one in timelines if one is not None}.values():
            timeline.restart(time.monotonic())

    def note_death(self, lengths: Mapping[int, int]) -> bool:
        """An engine died in a step of these requests, of which each had so many tokens: the one to blame, where that is
        clear, is told so and refused for REFUSED_SECONDS. Returns whether one was."""
        suspects = [
            (entry, length)
            for request_id, length in lengths.items()
            if (entry := self.entries.get(request_id))
        ]
        blamed = [entry for entry, length in suspects if entry.note_death(length)]
        if len(blamed) != 1:
            return False
        [entry] = blamed
        self._refused[_fingerprint(entry.asked)] = time.monotonic() + REFUSED_SECONDS
        self.release(entry.request.id)
        entry.sink(
            EngineFault("this request ended the engine each time it was tried, the last time by itself")
        )
        return True

    def fail_all(self, error: QuartetError) -> None:
        """Ends everything in flight with `error`, told once to those that were sent together."""
        self._fail(list(self.entries.values()), error)

    def forsake(self, model: str) -> None:
        """No engine has these weights any more: what is in flight for them, or still comes, is told to ask again."""
        self._forsaken.add(model)
        self._fail([entry for entry in self.entries.values() if entry.request.model == model], _replaced())

    def release(self, request_id: int) -> bool:
        """Ends a request; whether it was in flight."""
        entry = self.entries.pop(request_id, None)
        if entry is None:
            return False
        if entry.caller.timeline is not None:
            entry.caller.timeline.end(time.monotonic())
        self.num_tokens -= entry.cost
        self._turns.leave(entry.caller, entry.cost)
        if (line := self._lines.get(entry.caller.kind)) is not None:
            line.leave(entry.caller)
            if not line:
                del self._lines[entry.caller.kind]
        if not self.entries:
            self._throughput.pause(time.monotonic())
        return True

    def _fail(self, entries: Sequence[Entry], error: QuartetError) -> None:
        for entry in entries:
            self.release(entry.request.id)
        for sink in {id(entry.sink): entry.sink for entry in entries}.values():
            sink(error)

    def _check_refused(self, requests: Sequence[Request]) -> None:
        now = time.monotonic()
        self._refused = {key: until for key, until in self._refused.items() if until > now}
        if self._refused and any(_fingerprint(request) in self._refused for request in requests):
            raise EngineFault("this request has ended the engine before and is refused for now")


def _replaced() -> Unavailable:
    message = "the model was replaced, and the weights that this had begun on are gone: send it again"
    return Unavailable(message, code="replaced", retry_after=1.0)


def cost(request: Request) -> int:
    """The most tokens that a request may take: its prompt, and its completion once for each beam."""
    if isinstance(request, GenerateRequest):
        given = len(request.prompt_ids) + len(request.target_ids)
        return given + request.params.num_beams * request.params.max_tokens
    return len(request.ids)


def _fingerprint(request: Request) -> bytes:
    """Of what is computed: the model, the tokens, the parameters."""
    bare = msgspec.structs.replace(request, id=0, priority=0, behind=0)
    if isinstance(bare, GenerateRequest):
        bare = msgspec.structs.replace(bare, index=0)
    return hashlib.blake2b(msgspec.msgpack.encode(bare), digest_size=16).digest()


def is_end(answer: Answer) -> bool:
    """Whether nothing more comes for its request."""
    return not isinstance(answer, Tokens) or answer.finish_reason is not None


def joined(first: Tokens, second: Tokens) -> Tokens:
    """Two messages about one sequence as one."""
    logprobs = None
    if first.logprobs is not None or second.logprobs is not None:
        logprobs = [*(first.logprobs or ()), *(second.logprobs or ())]
    return msgspec.structs.replace(
        first,
        token_ids=first.token_ids + second.token_ids,
        logprobs=logprobs,
        finish_reason=second.finish_reason,
        cached_tokens=first.cached_tokens + second.cached_tokens,
    )


def _prepared(request: Request, request_id: int, behind: int) -> Request:
    """With its id and its turn, and with a seed where its sender chose none."""
    if isinstance(request, GenerateRequest) and request.params.seed is None:
        params = msgspec.structs.replace(request.params, seed=random.getrandbits(63))
        return msgspec.structs.replace(request, id=request_id, behind=behind, params=params)
    return msgspec.structs.replace(request, id=request_id, behind=behind)


def _share(most: int) -> int:
    """The most that one sender may hold."""
    return most - most // KEPT


def _excess(used: int, held: int, new: int, most: int) -> int:
    """How much more than there is room for, where the sender of the new holds so much of what is used."""
    return used + new - (most if held + new <= most // KEPT else _share(most))
