"""Attention over sequences of any lengths in one flat batch: the engine's packed encodes and paged steps.

`app.engine.batch` makes the groups. The padded twin is `model.layers.context.PaddedContext`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor

from model.kernels.decoder import PagedQueries
from model.kernels.encoding import packed_attention
from model.layers.attention_ops import dense_attention
from model.layers.context import KeyValue
from model.layers.disentangled import pair_scores
from model.layers.linear import AdapterSpans
from model.layers.masks import additive_mask, bias_mask, window_mask
from model.layers.positions import RelativeBias


@dataclass(frozen=True)
class AttentionGroup:
    """Sequences of like lengths, served by one dense call: `b` of them, `t` queries, `k` keys.

    `rows` [b, t] picks the queries from the flat batch (padding repeats row 0); `keys` picks keys
    and values from their store, [b, k] rows of a packed batch or [b, blocks] of a paged cache.
    `mask` [b, 1, t, k] is true where a query may look, None where all may look everywhere. With
    `num_keys` [b] each of `b` queries (`t` is 1) looks at the first so many keys of its blocks in the
    cache, where they lie; a sequence may have several. With `tiles`, see `model.kernels.paged`, a GPU's kernel does
    that. Of a packed batch the group is then all of it: `b` sequences of so many rows, from `keys` [b] on, and
    `key_positions` [2 * longest - 1] those from the query's, which is nought.
    """

    rows: Tensor
    keys: Tensor
    mask: Tensor | None
    query_positions: Tensor
    key_positions: Tensor
    num_keys: Tensor | None = None
    tiles: Tensor | None = None


class KeyValueStore(Protocol):
    """Where a layer's keys and values lie: in the batch itself, or in the paged cache."""

    def write(self, layer: int, fresh: KeyValue) -> None:
        """Keeps keys and values computed just now."""
        ...

    def read(self, layer: int, keys: Tensor) -> KeyValue:
        """Each [b, k, num_kv_heads, head_dim] for the `keys` of a group, in the dtype that they are kept in."""
        ...

    def decode(
        self, layer: int, query: Tensor, group: AttentionGroup, bias: Tensor | None, window: int, scale: float
    ) -> Tensor:
        """[n, h, d] queries of a group with `num_keys` to as many outputs, without a read. The `bias` of one with
        `tiles` is by distance, see `RelativeBias.by_distance`."""
        ...

    def paged_queries(self, group: AttentionGroup) -> PagedQueries | None:
        """The same for all layers, with what `write` knows; None where nothing is paged."""
        ...


class PackedStore:
    """Encoder-only and encoder passes: the keys are the batch's own rows, kept for one layer only."""

    def __init__(self) -> None:
        self._fresh: KeyValue | None = None

    def write(self, layer: int, fresh: KeyValue) -> None:
        """See `KeyValueStore`."""
        self._fresh = fresh

    def read(self, layer: int, keys: Tensor) -> KeyValue:
        """See `KeyValueStore`."""
        if self._fresh is None:
            raise ValueError("read before write")
        key, value = self._fresh
        return _pick(key, keys), _pick(value, keys)

    def decode(
        self, layer: int, query: Tensor, group: AttentionGroup, bias: Tensor | None, window: int, scale: float
    ) -> Tensor:
        """See `KeyValueStore`."""
        if self._fresh is None or group.num_keys is None:
            raise ValueError("read before write")
        longest = (len(group.key_positions) + 1) // 2
        behind = None if bias is None else bias[0, :, 0]  # [h, 2 * longest - 1]
        return packed_attention(
            query, *self._fresh, group.keys, group.num_keys, longest, scale, behind, window
        )

    def paged_queries(self, group: AttentionGroup) -> PagedQueries | None:
        """See `KeyValueStore`."""
        return None


@dataclass(frozen=True)
class GroupedContext:
    """A padding-free batch of sequences of any lengths, attended in groups.

    `order` [num_tokens] undoes the grouping: it picks each flat row from the groups' results
    laid end to end. None where the one group's rows are the flat rows already. `dtype` is the model's.
    """

    positions: Tensor
    groups: Sequence[AttentionGroup]
    order: Tensor | None
    store: KeyValueStore
    dtype: torch.dtype
    memory: Tensor | None = None
    cross_groups: Sequence[AttentionGroup] = ()
    cross_order: Tensor | None = None
    cross_store: KeyValueStore | None = None
    adapter_spans: AdapterSpans = ()
    memory_spans: AdapterSpans = ()
    _windowed: dict[int, Sequence[Tensor | None]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def position_bias(self, relative: RelativeBias) -> Sequence[Tensor]:
        return [
            bias_mask(g.mask, relative(g.query_positions, g.key_positions), self.dtype).contiguous()
            if g.tiles is None
            else relative.by_distance()
            for g in self.groups
        ]

    @cached_property
    def _cross_masks(self) -> Sequence[Tensor | None]:
        return [additive_mask(group.mask, self.dtype) for group in self.cross_groups]

    def pairs(self) -> Sequence[tuple[Tensor, Tensor]]:
        return [(g.query_positions, g.key_positions) for g in self.groups]

    def pair_bias(
        self, rows: Sequence[Tensor], by_query: Tensor | None, by_key: Tensor | None
    ) -> Sequence[Tensor]:
        biases = []
        for group, between in zip(self.groups, rows, strict=True):
            queries = None if by_query is None else _pick(by_query, group.rows)
            keys = None if by_key is None else _pick(by_key, group.keys)
            scores = pair_scores(queries, keys, between)
            biases.append(bias_mask(group.mask, scores, scores.dtype))
        return biases

    def attend(
        self,
        layer: int,
        query: Tensor,
        fresh: KeyValue,
        scale: float,
        bias: Sequence[Tensor] | None,
        window: int = 0,
    ) -> Tensor:
        self.store.write(layer, fresh)
        masks = self._masks(window) if bias is None else bias
        return _attend_groups(layer, query, self.store, self.groups, masks, self.order, scale, window)

    def _masks(self, window: int) -> Sequence[Tensor | None]:
        """One a group, made once for the layers that share a window.

        Layers with a window keep all their keys in the cache, and read them: the mask alone limits.
        """
        if window not in self._windowed:
            masks = [
                window_mask(g.mask, g.query_positions, g.key_positions, window)
                if 0 < window < len(g.key_positions) and g.num_keys is None
                else g.mask
                for g in self.groups
            ]
            self._windowed[window] = [additive_mask(mask, self.dtype) for mask in masks]
        return self._windowed[window]

    def attend_memory(self, layer: int, query: Tensor, fresh: KeyValue | None, scale: float) -> Tensor:
        if self.cross_store is None:
            raise ValueError("this batch has no encoder output to look at")
        if fresh is not None:
            self.cross_store.write(layer, fresh)
        return _attend_groups(
            layer, query, self.cross_store, self.cross_groups, self._cross_masks, self.cross_order, scale
        )

    def paged_queries(self) -> PagedQueries | None:
        """See `AttentionContext`."""
        if len(self.groups) != 1 or self.order is not None or self.adapter_spans:
            return None
        group = self.groups[0]
        return None if group.num_keys is None else self.store.paged_queries(group)


def _attend_groups(
    layer: int,
    query: Tensor,
    store: KeyValueStore,
    groups: Sequence[AttentionGroup],
    masks: Sequence[Tensor | None],
    order: Tensor | None,
    scale: float,
    window: int = 0,
) -> Tensor:
    """One call a group, then every row back to its place."""
    results = []
    for group, mask in zip(groups, masks, strict=True):
        if group.num_keys is not None:
            single = query if order is None else torch.index_select(query, 0, group.rows.flatten())
            results.append(store.decode(layer, single, group, mask, window, scale))
            continue
        b = group.rows.shape[0]
        grouped = query.view(b, -1, *query.shape[1:]) if order is None else _pick(query, group.rows)
        keys, values = (kept.to(query.dtype) for kept in store.read(layer, group.keys))
        out = dense_attention(grouped, keys, values, mask, scale)
        results.append(out.reshape(-1, *query.shape[1:]))
    if order is None:
        return results[0]
    return torch.index_select(results[0] if len(results) == 1 else torch.cat(results), 0, order)


def _pick(flat: Tensor, rows: Tensor) -> Tensor:
    """[num_tokens, ...] and [b, t] rows to [b, t, ...], copying whole rows."""
    return torch.index_select(flat, 0, rows.flatten()).view(*rows.shape, *flat.shape[1:])
