"""DeBERTa's disentangled attention: contents and relative positions score each other in every layer.

He et al. 2021 (arXiv:2006.03654, section 3.1). Positions further apart share rows of one table, by
distance in log-spaced buckets, and the layers make keys ("c2p") and queries ("p2c") of those rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from model.config import TransformerConfig
from model.layers.linear import AdapterSpans, Linear
from model.layers.norms import build_norm
from model.layers.table import Table


@dataclass(frozen=True)
class RelativeStates:
    """What the layers of one pass share: states [R, hidden_size] of the relative positions that occur
    in it, and for each of the context's `pairs` the [b or 1, t, k] rows of these between its tokens."""

    states: Tensor
    rows: Sequence[Tensor]


class RelativePositions(nn.Module):
    """The table of relative positions, and which row belongs to which distance."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.num_buckets, self.max_distance = config.relative_buckets, config.relative_max_distance
        self.span = self.num_buckets or self.max_distance
        self.table = Table(2 * self.span, config.hidden_size)
        self.norm = build_norm(config) if config.relative_norm else None
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, pairs: Sequence[tuple[Tensor, Tensor]]) -> RelativeStates:
        """From [b, t] query and [k] key positions, a pair each for sequences that attend together.

        Short texts need a few rows of the table only, and every layer projects what is returned.
        """
        rows = [self._row(queries[:, :, None] - keys) for queries, keys in pairs]  # [b, t, k]
        first = min(int(row.min()) for row in rows)
        last = max(int(row.max()) for row in rows)
        states = self.table.weight[first : last + 1]
        if self.norm is not None:
            states = self.norm(states)
        return RelativeStates(self.dropout(states), [row - first for row in rows])

    def _row(self, distance: Tensor) -> Tensor:
        """Half of the buckets hold exact distances, the rest grow with the logarithm up to the maximum.

        In float32 whatever the weights are, so that rounding puts the borders where they were trained.
        """
        if self.num_buckets:
            exact = self.num_buckets // 2
            size = distance.abs().clamp(min=exact).float() / exact
            scale = torch.tensor((self.max_distance - 1) / exact).log()
            coarse = (size.log() / scale * (exact - 1)).ceil().long() + exact
            distance = torch.where(distance.abs() <= exact, distance, coarse * distance.sign())
        return (distance + self.span).clamp(0, 2 * self.span - 1)


class PositionScores(nn.Module):
    """One layer's scores of its contents against relative positions."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.kinds = config.disentangled
        self.head_dim, self.scale = config.head_dim, config.attention_scale
        self.query: Linear | None = None
        self.key: Linear | None = None
        if not config.shared_position_projections:
            wide = config.num_heads * config.head_dim
            self.key = Linear(config.hidden_size, wide) if "c2p" in self.kinds else None
            self.query = Linear(config.hidden_size, wide) if "p2c" in self.kinds else None

    def forward(
        self,
        states: Tensor,
        query: tuple[Tensor, Linear],
        key: tuple[Tensor, Linear],
        adapter_spans: AdapterSpans,
    ) -> tuple[Tensor | None, Tensor | None]:
        """States [R, hidden_size] of positions, and the contents' queries and keys [num_tokens, num_heads,
        head_dim] with the projections that made them, to the scores by query and by key, each
        [num_tokens, num_heads, R] and scaled, None for a kind that the model does not have."""
        (queries, query_projection), (keys, key_projection) = query, key
        by_query = by_key = None
        if "c2p" in self.kinds:
            by_query = self._scores(queries, self.key or key_projection, states, adapter_spans)
        if "p2c" in self.kinds:
            by_key = self._scores(keys, self.query or query_projection, states, adapter_spans)
        return by_query, by_key

    def _scores(self, x: Tensor, projection: Linear, states: Tensor, spans: AdapterSpans) -> Tensor:
        """An adapter on the projection changes the positions for its own rows only."""
        scores = self._against(x, projection(states))
        for name, start, stop in spans:
            if name in projection.adapters:
                adapted = projection(states, ((name, 0, len(states)),))
                scores[start:stop] = self._against(x[start:stop], adapted)
        return scores

    def _against(self, x: Tensor, projected: Tensor) -> Tensor:
        projected = projected.view(len(projected), -1, self.head_dim)
        return torch.einsum("nhd,rhd->nhr", x * self.scale, projected)


def pair_scores(by_query: Tensor | None, by_key: Tensor | None, rows: Tensor) -> Tensor:
    """Scores [b, t, h, R] of queries and [b, k, h, R] of keys, each taken at the row between the two
    and summed: [b, h, t, k]. `rows` are [b or 1, t, k]; one of the scores may be None."""
    total: Tensor | None = None
    if by_query is not None:
        b, t, h, _ = by_query.shape
        total = by_query.transpose(1, 2).gather(3, rows[:, None].expand(b, h, t, -1))
    if by_key is not None:
        b, k, h, _ = by_key.shape
        turned = rows.transpose(1, 2)[:, None].expand(b, h, k, -1)
        scores = by_key.transpose(1, 2).gather(3, turned).transpose(2, 3)
        total = scores if total is None else total + scores
    if total is None:
        raise ValueError("no scores to take")
    return total
