"""Which replica a request goes to: its prefix's own, while that is not much busier than others.

Ray carries this module to whoever holds a handle, by value; so it imports nothing of ours.
"""

import random
from collections.abc import Sequence
from hashlib import blake2b

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica


class PrefixRouter(RequestRouter):
    """Of a call it looks at `prefix` (None: any replica is as good) and `avoid` (names of replicas), by keyword.

    A prefix's own replica follows from the names of both (rendezvous hashing): all handles agree without talking to
    each other, and where a replica comes or goes, only its own prefixes move. `max_lead`: how many requests more than
    the less busy one of two others it may have.
    """

    def initialize_state(self, max_lead: int = 16) -> None:
        """Called by Ray with the deployment's `request_router_kwargs`."""
        self._max_lead = max_lead

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Ranks, the best first; of each Ray takes the least busy one that has room, else asks again a little later."""
        prefix, avoid = None, ()
        if pending_request is not None:
            pending_request.routing_context.should_backoff = True  # without, Ray asks again at once
            prefix = pending_request.kwargs.get("prefix")
            avoid = pending_request.kwargs.get("avoid", ())
        by_name = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        names = [name for name in by_name if name not in avoid] or list(by_name)
        two = random.sample(names, min(2, len(names)))
        ranks = [two]
        if prefix is not None and names:
            own = own_replica(prefix, names)
            if (
                self._length(by_name[own])
                <= min(self._length(by_name[name]) for name in two) + self._max_lead
            ):
                ranks = [[own], two]
        return [[by_name[name] for name in rank] for rank in ranks]

    def _length(self, replica: RunningReplica) -> int:
        """Requests that it has, as far as is known here."""
        return self.replica_queue_len_cache.get(replica.replica_id) or 0


def own_replica(prefix: str, names: Sequence[str]) -> str:
    """The one of these names that the prefix belongs to."""
    return max(names, key=lambda name: blake2b(f"{prefix}\n{name}".encode(), digest_size=8).digest())
