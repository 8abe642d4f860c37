"""Which sequences of a step are attended together. Integers only."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

FREE_WASTE = 2048
"""Query-key pairs of padding that cost less than one more dense call; measured on a CPU."""
IN_PLACE_PAIRS = 2**14
"""Query-key pairs of a sequence up to which reading its keys in place takes less than a dense call; measured too."""


class Grouping(Protocol):
    """How the attention of a step is shared out: which sequences' keys are read in place, and groups of the others."""

    def split(self, shapes: Sequence[tuple[int, int]]) -> tuple[list[int], list[list[int]]]:
        """Of those whose keys are in a cache, (queries, keys) each; indices into `shapes`."""
        ...

    def split_encodes(self, lengths: Sequence[int]) -> tuple[list[int], list[list[int]]]:
        """Of those whose keys are the step's own rows: all of them are in place, or none."""
        ...

    @property
    def rows_a_tile(self) -> int:
        """How many queries of a sequence are computed together where their keys are read in place; 0: each alone."""
        ...


@dataclass(frozen=True)
class LikeLengths:
    """As fast as can be: sequences of like lengths are padded to one, and `is_in_place` says that those with few
    queries read their keys where they lie, whatever their lengths, and `encodes_in_place` that encodes all do."""

    is_in_place: bool
    encodes_in_place: bool = False
    rows_a_tile: int = 0

    def split(self, shapes: Sequence[tuple[int, int]]) -> tuple[list[int], list[list[int]]]:
        return split_sequences(shapes, self.is_in_place)

    def split_encodes(self, lengths: Sequence[int]) -> tuple[list[int], list[list[int]]]:
        if self.encodes_in_place:
            return list(range(len(lengths))), []
        return [], group_by_length([(length, length) for length in lengths])


class EachInPlace:
    """Every query by itself, of a prompt as of what is said, and every encode by itself: its bits are the same
    whatever is computed beside it."""

    rows_a_tile = 0

    def split(self, shapes: Sequence[tuple[int, int]]) -> tuple[list[int], list[list[int]]]:
        return list(range(len(shapes))), []

    def split_encodes(self, lengths: Sequence[int]) -> tuple[list[int], list[list[int]]]:
        return list(range(len(lengths))), []


@dataclass(frozen=True)
class InTiles:
    """Where a kernel reads the cache: all keys that are there in place, for several queries of a sequence at once;
    encodes by like lengths, or where `encodes_in_place` in place too."""

    rows_a_tile: int
    encodes_in_place: bool = False

    def split(self, shapes: Sequence[tuple[int, int]]) -> tuple[list[int], list[list[int]]]:
        return list(range(len(shapes))), []

    def split_encodes(self, lengths: Sequence[int]) -> tuple[list[int], list[list[int]]]:
        if self.encodes_in_place:
            return list(range(len(lengths))), []
        return [], group_by_length([(length, length) for length in lengths])


def group_by_length(shapes: Sequence[tuple[int, int]]) -> list[list[int]]:
    """Which sequences share a dense call: (queries, keys) each; returns indices into `shapes`.

    From the largest down, a sequence joins the open group while the padding this makes stays
    under a quarter of the real work, or is too little to be worth a call of its own.
    """
    order = sorted(range(len(shapes)), key=lambda i: shapes[i], reverse=True)
    groups: list[list[int]] = []
    t_max = k_max = real = 0
    for i in order:
        t, k = shapes[i]
        if groups:
            widest = max(k_max, k)
            padded = (len(groups[-1]) + 1) * t_max * widest
            if padded - (real + t * k) <= max(FREE_WASTE, (real + t * k) // 4):
                groups[-1].append(i)
                k_max, real = widest, real + t * k
                continue
        groups.append([i])
        t_max, k_max, real = t, k, t * k
    return groups


def split_sequences(
    shapes: Sequence[tuple[int, int]], is_in_place: bool
) -> tuple[list[int], list[list[int]]]:
    """The sequences whose keys are read in place, in their order, and the others by `group_by_length`."""
    in_place: list[int] = []
    others: list[int] = []
    for i, (t, k) in enumerate(shapes):
        (in_place if is_in_place and (t == 1 or t * k <= IN_PLACE_PAIRS) else others).append(i)
    groups = group_by_length([shapes[i] for i in others])
    return in_place, [[others[j] for j in group] for group in groups]


def cut_tiles(num_rows: Sequence[int], rows_a_tile: int) -> list[tuple[int, int]]:
    """First row and number of rows of each tile, for sequences with so many rows each, laid end to end."""
    tiles, first = [], 0
    for count in num_rows:
        tiles += [(first + i, min(rows_a_tile, count - i)) for i in range(0, count, rows_a_tile)]
        first += count
    return tiles


def find_places(in_place: list[int], groups: list[list[int]], lengths: list[int]) -> list[int] | None:
    """Where each flat row is in the results laid end to end: of those `in_place` and then, padded, of the groups.

    None where there is one group, or nothing else than those in place, and each row is where it was.
    """
    if not groups:
        return None
    starts = [0, *accumulate(lengths)]
    places = [0] * starts[-1]
    base = 0
    for group in [*([i] for i in in_place), *groups]:
        longest = max(lengths[i] for i in group)
        for i in group:
            places[starts[i] : starts[i + 1]] = range(base, base + lengths[i])
            base += longest
    if not in_place and len(groups) == 1 and places == list(range(base)):
        return None
    return places
