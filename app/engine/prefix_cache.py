"""Finds what is computed already: full blocks by the tokens in them and before them, cross blocks by their source.

A block's key is a hash chained over model, adapter, source and all tokens up to the block's last, so equal keys mean
equal keys and values. Which blocks are kept, and until when, is the block manager's.
"""

from array import array
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b

from app.engine.block_manager import BlockManager, num_blocks
from app.engine.sequence import Sequence


@dataclass(frozen=True)
class Found:
    """Blocks in which a sequence's first tokens are computed, and those of its source: all of them, or none."""

    blocks: list[int]
    cross_blocks: list[int]


class PrefixCache:
    """Looks for blocks, and notes those that are computed. Where it is not `is_on` it finds nothing.

    A step's own blocks can be found while it is planned (`expect`): every layer writes all keys and values of a step
    before it reads any. From the next plan on only what has really been computed counts (`register`).
    """

    def __init__(self, blocks: BlockManager, block_sizes: Mapping[str, int], is_on: bool) -> None:
        self._blocks, self._sizes, self._is_on = blocks, block_sizes, is_on
        self._expected: dict[bytes, int] = {}

    def begin_step(self) -> None:
        """A new plan: what was expected of the last one is computed and registered, or has failed."""
        self._expected.clear()

    def find(self, sequence: Sequence) -> Found:
        """The longest chain of tokens before the first whose logits are wanted: the last, from which the next token is
        sampled, or one that tells of the prompt. Takes nothing yet."""
        if not self._is_on or not sequence.token_ids:
            return Found([], [])
        wanted = len(sequence.token_ids)
        if sequence.tells_prompt:
            wanted = min(wanted, sequence.next_told)
        longest = (wanted - 1) // self._sizes[sequence.model]
        cross_blocks = self._chain(self._cross_keys(sequence))
        is_whole = len(cross_blocks) == num_blocks(len(sequence.source_ids), self._sizes[sequence.model])
        return Found(self._chain(self._keys(sequence, longest)), cross_blocks if is_whole else [])

    def expect(self, sequence: Sequence, num_tokens: int) -> None:
        """The step being planned computes `num_tokens` of the sequence, and its source where that is missing."""
        if not self._is_on or not sequence.token_ids:
            return
        full = (sequence.num_computed_tokens + num_tokens) // self._sizes[sequence.model]
        self._expected.update(zip(self._keys(sequence, full), sequence.block_table, strict=False))
        if sequence.needs_encode:
            self._expected.update(zip(self._cross_keys(sequence), sequence.cross_block_table, strict=True))

    def register(self, sequence: Sequence) -> None:
        """Makes the full blocks that the sequence has computed findable."""
        full = sequence.num_computed_tokens // self._sizes[sequence.model]
        if not self._is_on or full == sequence.num_registered_blocks:
            return
        keys = self._keys(sequence, full)
        for i in range(sequence.num_registered_blocks, full):
            self._blocks.register(sequence.block_table[i], keys[i])
        sequence.num_registered_blocks = full

    def register_source(self, sequence: Sequence) -> None:
        """Makes its cross blocks findable, once their encode has run."""
        if self._is_on and sequence.cross_block_table:
            for block, key in zip(sequence.cross_block_table, self._cross_keys(sequence), strict=True):
                self._blocks.register(block, key)

    def _chain(self, keys: Iterable[bytes]) -> list[int]:
        blocks = []
        for key in keys:
            block = self._expected.get(key)
            if block is None:
                block = self._blocks.find(key)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def _keys(self, sequence: Sequence, count: int) -> list[bytes]:
        """Of the first `count` blocks, which must be full of tokens; kept, as tokens never change."""
        keys, size = sequence.block_keys, self._sizes[sequence.model]
        while len(keys) < count:
            start = len(keys) * size
            previous = keys[-1] if keys else _root(sequence)
            keys.append(_hash(previous, sequence.token_ids[start : start + size]))
        return keys[:count]

    def _cross_keys(self, sequence: Sequence) -> list[bytes]:
        """Of a source's blocks; no token is negative, so they are nobody else's."""
        if not sequence.source_ids:
            return []
        count = num_blocks(len(sequence.source_ids), self._sizes[sequence.model])
        return [_hash(_root(sequence), [-1 - i]) for i in range(count)]


def _root(sequence: Sequence) -> bytes:
    if not sequence.root_key:
        served = blake2b(repr((sequence.model, sequence.adapter)).encode(), digest_size=16).digest()
        sequence.root_key = _hash(served, sequence.source_ids)
    return sequence.root_key


def _hash(previous: bytes, token_ids: list[int]) -> bytes:
    """Not Python's own: whoever could make two prompts collide would read in the other's."""
    return blake2b(previous + array("q", token_ids).tobytes(), digest_size=16).digest()
