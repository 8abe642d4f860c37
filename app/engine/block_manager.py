"""Who holds which page of the cache arena. Integers only.

One page is one block of whichever model takes it: as many token positions as the model's keys and
values let fit. The tensors are in `kv_cache`.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable


class BlockManager:
    """The free list, how many tables hold each block, how many blocks each model has, and what can be found again.

    A block that is registered under a key can be found by it, also when nobody holds it any more, until it is taken
    for something else. Blocks without a key are taken first, then the one that has been idle longest.
    """

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._idle: OrderedDict[int, None] = OrderedDict()
        self._keys: dict[int, bytes] = {}
        self._by_key: dict[bytes, int] = {}
        self._num_holders = [0] * num_blocks
        self._held: Counter[str] = Counter()
        self._last_owner: dict[int, str] = {}

    @property
    def num_free(self) -> int:
        """Blocks that nobody holds and anyone may take."""
        return len(self._free) + len(self._idle)

    def num_held(self, model: str) -> int:
        """Blocks that a model's sequences hold, shared ones counted once."""
        return self._held[model]

    def allocate(self, model: str, count: int) -> tuple[list[int], list[int]]:
        """Takes `count` blocks; returns them, and those among them that another model wrote last.

        Such a block holds bytes that may be no numbers in the new owner's dtype, so they must be
        cleared. Raises ValueError where fewer are free: the scheduler makes room first.
        """
        if count > self.num_free:
            raise ValueError(f"{count} blocks wanted, {self.num_free} free")
        blocks = [self._take() for _ in range(count)]
        stale = [b for b in blocks if self._last_owner.get(b, model) != model]
        self._last_owner.update(dict.fromkeys(blocks, model))
        for block in blocks:
            self._num_holders[block] = 1
        self._held[model] += count
        return blocks, stale

    def _take(self) -> int:
        if self._free:
            return self._free.pop()
        block, _ = self._idle.popitem(last=False)
        del self._by_key[self._keys.pop(block)]
        return block

    def register(self, block: int, key: bytes) -> None:
        """Lets `find` find a held block, whose content does not change from now on. A second block for the same
        key, or a second key for the same block, is ignored."""
        if key not in self._by_key and block not in self._keys:
            self._by_key[key] = block
            self._keys[block] = key

    def find(self, key: bytes) -> int | None:
        """The block registered under `key`, held or not; it is anybody's until it is shared."""
        return self._by_key.get(key)

    def share(self, blocks: Iterable[int]) -> None:
        """One more table holds each of these, held or found; none of its holders may write to it from now on."""
        for block in blocks:
            if not self._num_holders[block]:
                del self._idle[block]
                self._held[self._last_owner[block]] += 1
            self._num_holders[block] += 1

    def is_held(self, block: int) -> bool:
        """Does any table hold it?"""
        return self._num_holders[block] > 0

    def is_shared(self, block: int) -> bool:
        """Does more than one table hold it?"""
        return self._num_holders[block] > 1

    def free(self, model: str, blocks: Iterable[int]) -> None:
        """One table less holds each of these. What nobody holds is free: without a key the most recently used is
        taken again first, while still in the processor's cache; with a key the one that was freed first."""
        for block in blocks:
            self._num_holders[block] -= 1
            if not self._num_holders[block]:
                self._held[model] -= 1
                if block in self._keys:
                    self._idle[block] = None
                else:
                    self._free.append(block)

    def forget(self, model: str) -> None:
        """A model is gone that holds no block any more: what can be found of it can be found no more."""
        for block in [block for block in self._idle if self._last_owner[block] == model]:
            del self._idle[block]
            del self._by_key[self._keys.pop(block)]
            self._free.append(block)
        del self._held[model]


def num_blocks(num_tokens: int, block_size: int) -> int:
    """Blocks that hold `num_tokens` positions."""
    return -(-num_tokens // block_size)
