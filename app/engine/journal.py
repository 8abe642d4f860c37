"""The journal of the border: what is in flight, within its bounds, with the seed and the place of each answer.

Knows neither the process nor asyncio: answers leave through the function that each request came with.
"""

import itertools
import math
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from app.engine.protocol import Answer, GenerateRequest, Request, Tokens
from app.errors import InvalidRequest, Overloaded, QuartetError

RATE_SECONDS = 30.0
MOST_RETRY_SECONDS = 60.0

Sink = Callable[[tuple[int, Answer] | QuartetError], None]


@dataclass(frozen=True)
class Entry:
    """A request in flight: as it was sent, what it may cost in tokens, its place among those sent together."""

    request: Request
    cost: int
    place: int
    sink: Sink


class Journal:
    """What is in flight. Ids are never given twice, so the answers of a dead engine find nobody."""

    def __init__(self, max_requests: int, max_tokens: int) -> None:
        self.entries: dict[int, Entry] = {}
        self.num_tokens = 0
        self._max_requests, self._max_tokens = max_requests, max_tokens
        self._ids = itertools.count(1)
        self._released: deque[tuple[float, int]] = deque(maxlen=4096)  # when, how many tokens

    def admit(self, requests: Sequence[Request], sink: Sink) -> list[Request]:
        """All of them with ids and seeds, or none. Raises Overloaded, or InvalidRequest for what never fits."""
        costs = [cost(request) for request in requests]
        total = sum(costs)
        if len(requests) > self._max_requests or total > self._max_tokens:
            raise InvalidRequest(
                f"{len(requests)} sequences of {total} tokens (prompts and completions) at once are more"
                f" than the queue takes: {self._max_requests} and {self._max_tokens}",
                code="too_large",
            )
        excess_requests = len(self.entries) + len(requests) - self._max_requests
        excess_tokens = self.num_tokens + total - self._max_tokens
        if excess_requests > 0 or excess_tokens > 0:
            raise Overloaded("the queue is full", retry_after=self._wait(excess_requests, excess_tokens))
        admitted = [_prepared(request, next(self._ids)) for request in requests]
        for place, (request, tokens) in enumerate(zip(admitted, costs, strict=True)):
            self.entries[request.id] = Entry(request, tokens, place, sink)
        self.num_tokens += total
        return admitted

    def deliver(self, answer: Answer) -> None:
        """Hands an answer to whoever waits; the last one of a request ends it."""
        entry = self.entries.get(answer.id)
        if entry is not None:
            if is_end(answer):
                self.release(answer.id)
            entry.sink((entry.place, answer))

    def fail_all(self, error: QuartetError) -> None:
        """Ends everything in flight with `error`, told once to those that were sent together."""
        sinks = list({id(entry.sink): entry.sink for entry in self.entries.values()}.values())
        for request_id in list(self.entries):
            self.release(request_id)
        for sink in sinks:
            sink(error)

    def release(self, request_id: int) -> bool:
        """Ends a request; whether it was in flight."""
        entry = self.entries.pop(request_id, None)
        if entry is None:
            return False
        self.num_tokens -= entry.cost
        self._released.append((time.monotonic(), entry.cost))
        return True

    def _wait(self, excess_requests: int, excess_tokens: int) -> float:
        """Whole seconds until so much is released, by the rate of late."""
        now = time.monotonic()
        while self._released and self._released[0][0] < now - RATE_SECONDS:
            self._released.popleft()
        tokens = sum(released for _, released in self._released)
        if not tokens:
            return 1.0
        span = now - self._released[0][0]
        seconds = span * max(excess_requests / len(self._released), excess_tokens / tokens)
        return float(min(max(math.ceil(seconds), 1), MOST_RETRY_SECONDS))


def cost(request: Request) -> int:
    """The most tokens that a request may take: its prompt, and its completion once for each beam."""
    if isinstance(request, GenerateRequest):
        given = len(request.prompt_ids) + len(request.target_ids)
        return given + request.params.num_beams * request.params.max_tokens
    return len(request.ids)


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


def _prepared(request: Request, request_id: int) -> Request:
    """With its id, and with a seed where its sender chose none."""
    if isinstance(request, GenerateRequest) and request.params.seed is None:
        params = msgspec.structs.replace(request.params, seed=random.getrandbits(63))
        return msgspec.structs.replace(request, id=request_id, params=params)
    return msgspec.structs.replace(request, id=request_id)
