"""Who holds how much of what is in flight, and how far behind its sender's other work a new sequence stands."""

from collections import Counter
from dataclasses import dataclass, field

from app.caller import Caller


@dataclass
class _Call:
    """One caller's sequences in flight."""

    priority: int
    num_open: int = 0


@dataclass
class _Sender:
    """What one sender has in flight: sequences, the tokens they may take, and callers by priority."""

    num_requests: int = 0
    num_tokens: int = 0
    calls: Counter[int] = field(default_factory=Counter)


class Turns:
    """Counts by sender and caller."""

    def __init__(self) -> None:
        self._senders: dict[str, _Sender] = {}
        self._calls: dict[Caller, _Call] = {}

    def held(self, caller: Caller) -> tuple[int, int]:
        """Sequences, and tokens that they may take, that its sender has in flight."""
        sender = self._senders.get(caller.sender)
        return (0, 0) if sender is None else (sender.num_requests, sender.num_tokens)

    def join(self, caller: Caller, priority: int, tokens: int) -> int:
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
        call.num_open += 1
        num_calls = sum(count for level, count in sender.calls.items() if level >= call.priority)
        return call.num_open * num_calls - 1

    def __contains__(self, caller: Caller) -> bool:
        """Whether it has something in flight."""
        return caller in self._calls

    def leave(self, caller: Caller, tokens: int) -> None:
        """One of its sequences is over."""
        call, sender = self._calls[caller], self._senders[caller.sender]
        sender.num_requests -= 1
        sender.num_tokens -= tokens
        call.num_open -= 1
        if not call.num_open:
            del self._calls[caller]
            sender.calls[call.priority] -= 1
        if not sender.num_requests:
            del self._senders[caller.sender]
