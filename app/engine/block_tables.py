"""Gives sequences their blocks: those in which their tokens are computed already, new ones, copies of shared ones."""

from collections.abc import Mapping

from app.engine.block_manager import BlockManager, num_blocks
from app.engine.prefix_cache import PrefixCache
from app.engine.sequence import Sequence


class BlockTables:
    """Fills and empties the tables of sequences. `stale` lists, where given, get the blocks that must be cleared."""

    def __init__(self, blocks: BlockManager, block_sizes: Mapping[str, int], prefix_cache: bool) -> None:
        self.cache = PrefixCache(blocks, block_sizes, prefix_cache)
        self._blocks, self._sizes = blocks, block_sizes

    def num_to_start(self, sequence: Sequence) -> int:
        """Free blocks that `start` would take; one that decodes nothing needs none."""
        if not sequence.token_ids:
            return 0
        size, found = self._sizes[sequence.model], self.cache.find(sequence)
        total = num_blocks(len(sequence.token_ids), size) + num_blocks(len(sequence.source_ids), size)
        return total - sum(map(self._blocks.is_held, (*found.blocks, *found.cross_blocks)))

    def start(self, sequence: Sequence, stale: list[int]) -> None:
        """Gives a new sequence all the blocks that its tokens need; what is computed in them counts as computed."""
        if not sequence.token_ids:
            return
        size, found = self._sizes[sequence.model], self.cache.find(sequence)
        # Shared before any block is allocated, which could be one of these.
        self._blocks.share([*found.blocks, *found.cross_blocks])
        sequence.block_table, sequence.cross_block_table = found.blocks, found.cross_blocks
        sequence.num_registered_blocks = len(found.blocks)
        sequence.num_computed_tokens = len(found.blocks) * size
        sequence.is_encoded = bool(found.cross_blocks)
        if sequence.num_cached_tokens is None:
            num_source = len(sequence.source_ids) if sequence.is_encoded else 0
            sequence.num_cached_tokens = num_source if sequence.source_ids else sequence.num_computed_tokens
        self._extend(sequence, sequence.block_table, len(sequence.token_ids), stale)
        self._extend(sequence, sequence.cross_block_table, len(sequence.source_ids), stale)

    def num_to_grow(self, sequence: Sequence) -> int:
        """Free blocks that a running sequence's next token takes: one more, or one of its own."""
        needed = num_blocks(len(sequence.token_ids), self._sizes[sequence.model]) - len(sequence.block_table)
        return needed + (self._shared_place(sequence) is not None)

    def grow(self, sequence: Sequence, stale: list[int]) -> list[tuple[int, int]]:
        """Room for a running sequence's next token. Copy on write: a block that others read too is replaced by one of
        its own, to which it must be copied; returns (from, to)."""
        copies = []
        place = self._shared_place(sequence)
        if place is not None:
            shared = sequence.block_table[place]
            [own], cleared = self._blocks.allocate(sequence.model, 1)
            self._blocks.free(sequence.model, [shared])
            sequence.block_table[place] = own
            copies.append((shared, own))
            stale += cleared
        self._extend(sequence, sequence.block_table, len(sequence.token_ids), stale)
        return copies

    def grow_draft(self, sequence: Sequence, spare: int, stale: list[int]) -> int:
        """Room for a draft behind the next token, in at most `spare` blocks more; what has none is cut off.

        Returns how many tokens are left of the draft.
        """
        size = self._sizes[sequence.model]
        room = (len(sequence.block_table) + max(0, spare)) * size - len(sequence.token_ids)
        sequence.draft = sequence.draft.cut(room)
        length = len(sequence.draft.token_ids)
        self._extend(sequence, sequence.block_table, len(sequence.token_ids) + length, stale)
        return length

    def share(self, sequence: Sequence) -> None:
        """A copy of another's tables holds their blocks too."""
        self._blocks.share(sequence.block_table + sequence.cross_block_table)

    def release(self, sequence: Sequence) -> None:
        """Gives all blocks back."""
        # From the end: the beginning of a text is what another may have too, so it is to be taken last; and of an
        # encoder-decoder, the source.
        table = [*reversed(sequence.block_table), *reversed(sequence.cross_block_table)]
        self._blocks.free(sequence.model, table)
        sequence.block_table, sequence.cross_block_table = [], []
        sequence.num_registered_blocks = 0

    def _shared_place(self, sequence: Sequence) -> int | None:
        """Where in its table the block is that its next token goes to, if others read that too."""
        place = sequence.num_computed_tokens // self._sizes[sequence.model]
        is_there = place < len(sequence.block_table)
        return place if is_there and self._blocks.is_shared(sequence.block_table[place]) else None

    def _extend(self, sequence: Sequence, table: list[int], num_tokens: int, stale: list[int]) -> None:
        count = num_blocks(num_tokens, self._sizes[sequence.model]) - len(table)
        if count > 0:
            blocks, cleared = self._blocks.allocate(sequence.model, count)
            table += blocks
            stale += cleared
