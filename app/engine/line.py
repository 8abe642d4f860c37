"""Who waits until something of theirs is computed, and how long a new one would."""

from collections import Counter, OrderedDict

from app.caller import Caller
from app.engine.throughput import Throughput

HELD_SECONDS = 1.0
"""Where the first in line waits for less, there is room in the batch, and nobody waits for anybody's end."""
SURE_SECONDS, SURE_CALLERS = 3.0, 8
"""So long it must have been held, and so many begun, until anything is known of its speed."""
WINDOW_SECONDS = 30.0


class Line:
    """Callers of one kind. Times are `time.monotonic()`."""

    def __init__(self) -> None:
        self._since: OrderedDict[Caller, float] = OrderedDict()  # who came first is first
        self._senders: Counter[str] = Counter()
        self._begun = Throughput(WINDOW_SECONDS)  # callers, in seconds in which the line was held

    def __len__(self) -> int:
        return len(self._since)

    def join(self, caller: Caller, now: float) -> None:
        """One more, of whom nothing is in flight yet."""
        self._since[caller] = now
        self._senders[caller.sender] += 1

    def begin(self, caller: Caller, now: float) -> None:
        """Something of this caller's is computed, whether it waits for that or not."""
        if caller in self._since and self._is_held(now):
            self._begun.note(now, 0)
        self.leave(caller)

    def leave(self, caller: Caller) -> None:
        """It waits no more, if it did."""
        if self._since.pop(caller, None) is not None:
            self._senders[caller.sender] -= 1
            if not self._senders[caller.sender]:
                del self._senders[caller.sender]

    def excess(self, caller: Caller, seconds: float, now: float) -> float:
        """How many too many have their turn before a new one of this caller's sender, where it is to begin within so
        many seconds at the speed of late; 0 where it will, or where nothing is known of that."""
        if not self._is_held(now) or not self._begun.is_known(now, SURE_SECONDS, SURE_CALLERS):
            return 0.0
        return max(0.0, self._num_before(caller) - self._begun.carried(now, seconds))

    def promise(self, now: float, excess: float) -> float:
        """When it is worth to ask again; as `Throughput.promise`."""
        return self._begun.promise(now, max(1, round(excess)), 0)

    def _num_before(self, caller: Caller) -> int:
        """For each of its sender's own, one of each other sender's: so turns go."""
        rounds = self._senders[caller.sender] + 1
        return sum(min(count, rounds) for count in self._senders.values())

    def _is_held(self, now: float) -> bool:
        waited = now - next(iter(self._since.values()), now)
        if waited < HELD_SECONDS:
            self._begun.pause(now)
            return False
        self._begun.resume(now - waited)
        return True
