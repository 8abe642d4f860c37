"""What attention is handed besides its input: where keys and values are, and who may see whom.

The same modules run a padded training batch (`PaddedContext` here) and the engine's packed
encode and paged steps (`model.layers.grouped_context`). All token dimensions are flat.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from model.kernels.decoder import PagedQueries
from model.layers.disentangled import pair_scores
from model.layers.linear import AdapterSpans
from model.layers.masks import bias_mask, window_mask
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

    def paged_queries(self) -> PagedQueries | None:
        """What a kernel for a whole stack needs, where all rows read the keys of a paged cache in place, and none of
        them is an adapter's."""
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

    def paged_queries(self) -> PagedQueries | None:
        """None: nothing is paged."""
        return None

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
