"""The router's choices, by Ray's own class without Ray's processes."""

import asyncio
import warnings
from collections import Counter
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own
    from deploy.ray.router import PrefixRouter, own_replica

pytestmark = pytest.mark.ray

NAMES = [f"replica{number}" for number in range(5)]


def choose(lengths: Mapping[str, int], max_lead: int = 4, **call: Any) -> list[list[str]]:
    """The ranks, for a call to replicas with so many requests."""
    replicas = [SimpleNamespace(replica_id=SimpleNamespace(unique_id=name)) for name in NAMES]
    router: Any = SimpleNamespace(
        _max_lead=max_lead,
        _length=lambda replica: lengths.get(replica.replica_id.unique_id, 0),
    )
    request = SimpleNamespace(kwargs=call, routing_context=SimpleNamespace(should_backoff=False))
    chosen = asyncio.run(PrefixRouter.choose_replicas(router, replicas, request))
    assert request.routing_context.should_backoff
    return [[replica.replica_id.unique_id for replica in rank] for rank in chosen]


def test_prefixes_spread_over_all_and_move_only_where_they_must() -> None:
    prefixes = [f"prefix{number}" for number in range(500)]
    owners = {prefix: own_replica(prefix, NAMES) for prefix in prefixes}
    assert min(Counter(owners.values()).values()) > 50
    for prefix, owner in owners.items():
        assert own_replica(prefix, NAMES[::-1]) == owner
        if owner != NAMES[0]:
            assert own_replica(prefix, NAMES[1:]) == owner


def test_a_prefix_goes_to_its_own() -> None:
    own = own_replica("p", NAMES)
    for _ in range(20):
        first, others = choose({}, prefix="p", avoid=())
        assert (first, len(others)) == ([own], 2)


def test_a_much_busier_one_is_passed_over() -> None:
    own = own_replica("p", NAMES)
    for _ in range(20):
        assert choose({own: 4}, prefix="p", avoid=())[0] == [own]
        (two,) = choose({own: 5}, prefix="p", avoid=())
        assert len(two) == 2  # of these Ray takes the less busy one


def test_without_a_prefix_two_are_drawn() -> None:
    drawn = Counter(name for _ in range(200) for name in choose({}, prefix=None, avoid=())[0])
    assert set(drawn) == set(NAMES)
    assert drawn.total() == 400


def test_the_avoided_are_avoided_while_there_are_others() -> None:
    own = own_replica("p", NAMES)
    for _ in range(20):
        ranks = choose({}, prefix="p", avoid=(own,))
        assert own not in {name for rank in ranks for name in rank}
    assert choose({}, prefix="p", avoid=tuple(NAMES))[0] == [own]
