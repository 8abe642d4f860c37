"""Who holds how much of what is in flight, and how far behind its sender's other work a new sequence stands."""

from collections import Counter, OrderedDict
from dataclasses import dataclass, field

from app.caller import Caller


@dataclass
class _Call:
    """One caller's sequences in flight."""

    priority: int
    num_open: int = 0


@dataclass
class _Sender:
    """What one sender has in flight: sequences, the tokens they may take, callers by priority, and how many of those
    wait."""

    num_requests: int = 0
    num_tokens: int = 0
    num_waiting: int = 0
    calls: Counter[int] = field(default_factory=Counter)


class Turns:
    """Counts by sender and caller. A caller waits while it has something in flight of which nothing has begun."""

    def __init__(self) -> None:
        self._senders: dict[str, _Sender] = {}
        self._calls: dict[Caller, _Call] = {}
        self._waiting: OrderedDict[Caller, float] = OrderedDict()  # since when; who came first is first

    def held(self, caller: Caller) -> tuple[int, int]:
        """Sequences, and tokens that they may take, that its sender has in flight."""
        sender = self._senders.get(caller.sender)
        return (0, 0) if sender is None else (sender.num_requests, sender.num_tokens)

    def num_before(self, caller: Caller) -> int:
        """Callers who wait and have their turn before a new one of this sender's: for each of its own, one of each
        other sender's."""
        own = self._senders.get(caller.sender)
        rounds = 1 if own is None else own.num_waiting + 1
        return sum(min(sender.num_waiting, rounds) for sender in self._senders.values())

    def longest_wait(self, now: float) -> float:
        """Seconds, 0 where nobody waits."""
        return now - next(iter(self._waiting.values()), now)

    def join(self, caller: Caller, priority: int, tokens: int, now: float = 0.0) -> int:
        """One more sequence of this caller. How many turns others have before it is its own.

        The first sequence of a sender's only request has none before it. Each of the request's sequences that is in
        flight puts the next one back by a turn, and so does each of the sender's other requests, of no lower priority;
        among several requests the sender's turns go round.
        """
        sender = self._senders.setdefault(caller.sender, _Sender())
        sender.num_requests += 1
        sender.num_tokens += tokens
        call = self._calls.get(caller)
        if call is None:
            call = self._calls[caller] = _Call(priority)
            sender.calls[priority] += 1
            sender.num_waiting += 1
            self._waiting[caller] = now
        call.num_open += 1
        num_calls = sum(count for level, count in sender.calls.items() if level >= call.priority)
        return call.num_open * num_calls - 1

    def begin(self, caller: Caller) -> bool:
        """Something of this caller's has been computed, or will not be; whether it waited until now."""
        if self._waiting.pop(caller, None) is None:
            return False
        self._senders[caller.sender].num_waiting -= 1
        return True

    def leave(self, caller: Caller, tokens: int) -> None:
        """One of its sequences is over."""
        self.begin(caller)
        call, sender = self._calls[caller], self._senders[caller.sender]
        sender.num_requests -= 1
        sender.num_tokens -= tokens
        call.num_open -= 1
        if not call.num_open:
            del self._calls[caller]
            sender.calls[call.priority] -= 1
        if not sender.num_requests:
            del self._senders[caller.sender]
