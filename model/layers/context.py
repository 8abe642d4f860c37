"""What attention is handed besides its input: where keys and values are, and who may see whom.

The same modules run a padded training batch (`PaddedContext` here) and the engine's packed
encode and paged steps (`app.engine.batch` fills a `GroupedContext`). All token dimensions are flat.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from model.layers.attention_ops import dense_attention
from model.layers.disentangled import pair_scores
from model.layers.linear import AdapterSpans
from model.layers.masks import additive_mask, bias_mask, window_mask
from model.layers.positions import RelativeBias

KeyValue = tuple[Tensor, Tensor]
"""Keys and values, each [num_tokens, num_kv_heads, head_dim]."""


class AttentionContext(Protocol):
    """How a stack's attention layers reach the tokens they may see."""

    @property
    def positions(self) -> Tensor:
        """[num_tokens] position of each query in its own sequence."""
        ...

    @property
    def adapter_spans(self) -> AdapterSpans:
        """Which rows belong to which adapter."""
        ...

    @property
    def memory(self) -> Tensor | None:
        """[num_memory_tokens, hidden_size] encoder output whose cross keys are not yet computed."""
        ...

    @property
    def memory_spans(self) -> AdapterSpans:
        """Which rows of `memory` belong to which adapter."""
        ...

    def position_bias(self, relative: RelativeBias) -> Sequence[Tensor]:
        """The additive biases of one pass, in the form that `attend` takes them back."""
        ...

    def pairs(self) -> Sequence[tuple[Tensor, Tensor]]:
        """The [b, t] query and [k] key positions between which `pair_bias` wants rows."""
        ...

    def pair_bias(
        self, rows: Sequence[Tensor], by_query: Tensor | None, by_key: Tensor | None
    ) -> Sequence[Tensor]:
        """Scores of each token against R things, [num_tokens, num_heads, R], as biases for `attend`.

        `rows`, [b or 1, t, k] for each of `pairs`, say which of the R stands between a query and a key.
        Encoders only, whose keys are the tokens of this pass; a decoder's context raises ValueError.
        """
        ...

    def attend(
        self,
        layer: int,
        query: Tensor,
        fresh: KeyValue,
        scale: float,
        bias: Sequence[Tensor] | None,
        window: int = 0,
    ) -> Tensor:
        """Self-attention: [num_tokens, num_heads, head_dim] queries to as many outputs.

        A `window` hides keys that stand that far away or further; with a `bias` there is none.
        """
        ...

    def attend_memory(self, layer: int, query: Tensor, fresh: KeyValue | None, scale: float) -> Tensor:
        """Cross-attention; `fresh` are the keys and values of `memory` where it is given."""
        ...


@dataclass(frozen=True)
class PaddedContext:
    """A rectangular batch, flattened: training, and the slow twin of everything the engine does.

    `mask` [b, t] is true for real tokens. With `causal`, query i sees keys up to i.
    """

    mask: Tensor
    causal: bool
    memory: Tensor | None = None
    memory_mask: Tensor | None = None
    adapter_spans: AdapterSpans = ()
    memory_spans: AdapterSpans = ()
    _windowed: dict[int, Tensor] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def positions(self) -> Tensor:
        """Padding may stand on either side: a token's position counts the real tokens before it."""
        return (self.mask.long().cumsum(1) - 1).clamp(min=0).flatten()

    def position_bias(self, relative: RelativeBias) -> Sequence[Tensor]:
        """See `AttentionContext`."""
        return (relative(*self.pairs()[0]),)

    def pairs(self) -> Sequence[tuple[Tensor, Tensor]]:
        steps = torch.arange(self.mask.shape[1], device=self.mask.device)
        return ((steps[None], steps),)

    def pair_bias(
        self, rows: Sequence[Tensor], by_query: Tensor | None, by_key: Tensor | None
    ) -> Sequence[Tensor]:
        b, t = self.mask.shape
        queries = None if by_query is None else by_query.view(b, t, *by_query.shape[1:])
        keys = None if by_key is None else by_key.view(b, t, *by_key.shape[1:])
        return (pair_scores(queries, keys, rows[0]),)

    def attend(
        self,
        layer: int,
        query: Tensor,
        fresh: KeyValue,
        scale: float,
        bias: Sequence[Tensor] | None,
        window: int = 0,
    ) -> Tensor:
        if 0 < window < self.mask.shape[1]:
            return self._sdpa(query, fresh, self._allowed_within(window), scale)
        if bias is None and self.causal and self._is_full:
            return self._sdpa(query, fresh, None, scale, is_causal=True)
        mask = self._allowed if bias is None else bias_mask(self._allowed, bias[0], query.dtype)
        return self._sdpa(query, fresh, mask, scale)

    def attend_memory(self, layer: int, query: Tensor, fresh: KeyValue | None, scale: float) -> Tensor:
        if fresh is None or self.memory_mask is None:
            raise ValueError("a padded batch brings its memory with it")
        return self._sdpa(query, fresh, self._allowed_memory, scale)

    @cached_property
    def _is_full(self) -> bool:
        return bool(self.mask.all())

    @cached_property
    def _allowed(self) -> Tensor | None:
        """[b or 1, 1, t, t]. A row that is padding and sees nothing looks at itself, to stay finite."""
        length, device = self.mask.shape[1], self.mask.device
        lower = torch.ones(length, length, dtype=torch.bool, device=device).tril()
        if self._is_full:
            return lower[None, None] if self.causal else None
        allowed = self.mask[:, None, None, :]
        if self.causal:
            allowed = allowed & lower
        return allowed | torch.eye(length, dtype=torch.bool, device=device)

    def _allowed_within(self, window: int) -> Tensor:
        """[b or 1, 1, t, t], made once for the layers that share a window."""
        if window not in self._windowed:
            # Padding stands at one end, so steps are as far apart as positions.
            steps = torch.arange(self.mask.shape[1], device=self.mask.device)
            self._windowed[window] = window_mask(self._allowed, steps[None], steps, window)
        return self._windowed[window]

    @cached_property
    def _allowed_memory(self) -> Tensor | None:
        if self.memory_mask is None or bool(self.memory_mask.all()):
            return None
        return self.memory_mask[:, None, None, :]

    def _sdpa(
        self, query: Tensor, fresh: KeyValue, mask: Tensor | None, scale: float, is_causal: bool = False
    ) -> Tensor:
        b = self.mask.shape[0]
        q, k, v = (x.view(b, -1, *x.shape[1:]).transpose(1, 2) for x in (query, *fresh))  # [b, h, t, d]
        out = functional.scaled_dot_product_attention(
            q, k, v, attn_mask=mask, scale=scale, is_causal=is_causal, enable_gqa=q.shape[1] != k.shape[1]
        )
        return out.transpose(1, 2).reshape(query.shape)


@dataclass(frozen=True)
class AttentionGroup:
    """Sequences of like lengths, served by one dense call: `b` of them, `t` queries, `k` keys.

    `rows` [b, t] picks the queries from the flat batch (padding repeats row 0); `keys` picks keys
    and values from their store, [b, k] rows of a packed batch or [b, blocks] of a paged cache.
    `mask` [b, 1, t, k] is true where a query may look, None where all may look everywhere.
    """

    rows: Tensor
    keys: Tensor
    mask: Tensor | None
    query_positions: Tensor
    key_positions: Tensor


class KeyValueStore(Protocol):
    """Where a layer's keys and values lie: in the batch itself, or in the paged cache."""

    def write(self, layer: int, fresh: KeyValue) -> None:
        """Keeps keys and values computed just now."""
        ...

    def read(self, layer: int, keys: Tensor) -> KeyValue:
        """Each [b, k, num_kv_heads, head_dim] for the `keys` of a group."""
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
            bias_mask(g.mask, relative(g.query_positions, g.key_positions), self.dtype) for g in self.groups
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
        return _attend_groups(layer, query, self.store, self.groups, masks, self.order, scale)

    def _masks(self, window: int) -> Sequence[Tensor | None]:
        """One a group, made once for the layers that share a window.

        Layers with a window keep all their keys in the cache, and read them: the mask alone limits.
        """
        if window not in self._windowed:
            masks = [
                window_mask(g.mask, g.query_positions, g.key_positions, window)
                if 0 < window < len(g.key_positions)
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


def _attend_groups(
    layer: int,
    query: Tensor,
    store: KeyValueStore,
    groups: Sequence[AttentionGroup],
    masks: Sequence[Tensor | None],
    order: Tensor | None,
    scale: float,
) -> Tensor:
    """One dense call a group, then every row back to its place."""
    results = []
    for group, mask in zip(groups, masks, strict=True):
        keys, values = store.read(layer, group.keys)
        b = group.rows.shape[0]
        grouped = query.view(b, -1, *query.shape[1:]) if order is None else _pick(query, group.rows)
        out = dense_attention(grouped, keys, values, mask, scale)
        results.append(out.reshape(-1, *query.shape[1:]))
    if order is None:
        return results[0]
    return torch.index_select(results[0] if len(results) == 1 else torch.cat(results), 0, order)


def _pick(flat: Tensor, rows: Tensor) -> Tensor:
    """[num_tokens, ...] and [b, t] rows to [b, t, ...], copying whole rows."""
    return torch.index_select(flat, 0, rows.flatten()).view(*rows.shape, *flat.shape[1:])
