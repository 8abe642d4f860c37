"""Who holds which page of the cache arena. Integers only.

One page is one block of whichever model takes it: as many token positions as the model's keys and
values let fit. The tensors are in `kv_cache`.
"""

from collections import Counter
from collections.abc import Iterable


class BlockManager:
    """The free list, how many tables hold each block, and how many blocks each model has."""

    def __init__(self, num_blocks: int) -> None:
        self.num_blocks = num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._num_holders = [0] * num_blocks
        self._held: Counter[str] = Counter()
        self._last_owner: dict[int, str] = {}

    @property
    def num_free(self) -> int:
        """Blocks that anyone may take."""
        return len(self._free)

    def num_held(self, model: str) -> int:
        """Blocks that a model's sequences hold, shared ones counted once."""
        return self._held[model]

    def allocate(self, model: str, count: int) -> tuple[list[int], list[int]]:
        """Takes `count` blocks; returns them, and those among them that another model wrote last.

        Such a block holds bytes that may be no numbers in the new owner's dtype, so they must be
        cleared. Raises ValueError where fewer are free: the scheduler makes room first.
        """
        if count > len(self._free):
            raise ValueError(f"{count} blocks wanted, {len(self._free)} free")
        blocks = [self._free.pop() for _ in range(count)]
        stale = [b for b in blocks if self._last_owner.get(b, model) != model]
        self._last_owner.update(dict.fromkeys(blocks, model))
        for block in blocks:
            self._num_holders[block] = 1
        self._held[model] += count
        return blocks, stale

    def share(self, blocks: Iterable[int]) -> None:
        """One more table holds each of these; none of its holders may write to it from now on."""
        for block in blocks:
            self._num_holders[block] += 1

    def is_shared(self, block: int) -> bool:
        """Does more than one table hold it?"""
        return self._num_holders[block] > 1

    def free(self, model: str, blocks: Iterable[int]) -> None:
        """One table less holds each of these. What nobody holds is free; the most recently used is taken again
        first, while still in the processor's cache."""
        for block in blocks:
            self._num_holders[block] -= 1
            if not self._num_holders[block]:
                self._free.append(block)
                self._held[model] -= 1


def num_blocks(num_tokens: int, block_size: int) -> int:
    """Blocks that hold `num_tokens` positions."""
    return -(-num_tokens // block_size)
