"""The paged cache: one byte arena for all models, cut into equal pages, each page one block of its taker."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from app.engine.block_manager import num_blocks
from model import kernels
from model.config import CheckpointError, TransformerConfig
from model.kernels import paged
from model.kernels.decoder import PagedQueries
from model.kernels.tiles import tile_attention
from model.layers.context import KeyValue
from model.layers.grouped_context import AttentionGroup

MIN_BLOCK_SIZE = 16
"""Positions that a block of the model with the widest cache holds; others fit more into a page."""


@dataclass(frozen=True)
class CacheShape:
    """What one position of one model takes: keys and values of every decoder layer."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    dtype: torch.dtype

    @classmethod
    def of(cls, config: TransformerConfig, dtype: torch.dtype) -> "CacheShape":
        """An encoder alone takes nothing."""
        return cls(config.num_decoder_layers, config.num_kv_heads, config.head_dim, dtype)

    @property
    def position_elements(self) -> int:
        """Numbers kept for a position in one layer."""
        return 2 * self.num_kv_heads * self.head_dim

    @property
    def position_bytes(self) -> int:
        """Bytes kept for a position in all layers."""
        return self.num_layers * self.position_elements * self.dtype.itemsize


class Arena:
    """[num_pages, page_bytes] bytes; a model sees a page as its own block shape."""

    def __init__(
        self, num_pages: int, page_bytes: int, device: torch.device, has_spare: bool = False
    ) -> None:
        """With `has_spare` there is one page more, `num_pages`, which nobody is given: rows of padding write there."""
        self.num_pages, self.page_bytes = num_pages, page_bytes
        shape = num_pages + has_spare, page_bytes
        # Zeros, not garbage: masked positions are multiplied by a weight of nought, and NaN times nought is NaN.
        # numpy leaves zeroed pages to the kernel, which gives them out when first written; torch writes all now.
        if device.type == "cpu":
            self._bytes = torch.from_numpy(np.zeros(shape, dtype=np.uint8))
        else:
            self._bytes = torch.zeros(shape, dtype=torch.uint8, device=device)

    def clear(self, pages: list[int]) -> None:
        """Zeroes pages that another model wrote."""
        self._bytes[torch.tensor(pages, device=self._bytes.device)] = 0

    def copy(self, pages: list[tuple[int, int]]) -> None:
        """Copies whole pages, (from, to) each; nothing that is copied to is copied from."""
        if self._bytes.is_cpu:  # indexing would copy byte by byte, twice
            for source, target in pages:
                self._bytes[target].copy_(self._bytes[source])
            return
        sources, targets = torch.tensor(pages, device=self._bytes.device).unbind(1)
        self._bytes[targets] = self._bytes[sources]

    def view(self, shape: CacheShape) -> Tensor:
        """[num_layers, num_pages, block_size, num_kv_heads, 2 * head_dim]: keys, then values, per head."""
        size = self.block_size(shape)
        elements = self._bytes.view(shape.dtype)[:, : size * shape.position_elements * shape.num_layers]
        layers = elements.view(-1, shape.num_layers, size, shape.num_kv_heads, 2 * shape.head_dim)
        return layers.transpose(0, 1)

    def block_size(self, shape: CacheShape) -> int:
        """Positions that one page holds for this model; 1 for a model that keeps none.

        Raises CheckpointError where a page does not hold one.
        """
        needed = shape.position_bytes
        if not needed:
            return 1
        wanted = f"start the server with --kv-cache-page {needed * MIN_BLOCK_SIZE} or more"
        if not self.num_pages:
            raise CheckpointError(
                f"there is no cache, as no model that generates was there at the start: {wanted}"
            )
        if needed > self.page_bytes:
            raise CheckpointError(
                f"a position of it takes {needed} bytes, and the pages of the cache have {self.page_bytes}: {wanted}"
            )
        return self.page_bytes // needed


def plan_arena(shapes: list[CacheShape], total_bytes: int, least_page: int | None = None) -> tuple[int, int]:
    """Number of pages and bytes a page, so that the widest model gets blocks of `MIN_BLOCK_SIZE`, and a page has
    `least_page` bytes at least, where that is given: for wider ones to come.

    A page is a multiple of 64 bytes, so that every dtype can view it. No model with a decoder and no `least_page`: no
    pages.
    """
    widest = max((s.position_bytes for s in shapes), default=0)
    if not widest and not least_page:
        return 0, 64
    page_bytes = num_blocks(max(widest * MIN_BLOCK_SIZE, least_page or 0), 64) * 64
    return max(1, total_bytes // page_bytes), page_bytes


class PagedStore:
    """One step's way into a model's part of the arena: writes at slots, reads whole blocks."""

    def __init__(self, layers: Sequence[Tensor], write_blocks: Tensor, write_offsets: Tensor) -> None:
        """`layers` are those of `Arena.view`."""
        self._layers = layers
        self._write_blocks, self._write_offsets = write_blocks, write_offsets

    def write(self, layer: int, fresh: KeyValue) -> None:
        """[num_tokens, num_kv_heads, head_dim] keys and values to their slots."""
        cache, blocks, offsets = self._layers[layer], self._write_blocks, self._write_offsets
        if kernels.can_run(*fresh) and kernels.can_cache(fresh[0].dtype, cache):
            kernels.write_cache(cache, *fresh, blocks, offsets)
        else:
            cache.index_put_((blocks, offsets), torch.cat(fresh, dim=-1).to(cache.dtype))

    def read(self, layer: int, keys: Tensor) -> KeyValue:
        """[b, blocks] block ids to keys and values [b, blocks * block_size, num_kv_heads, head_dim]."""
        # index_select copies whole blocks; indexing with a tensor copies number by number, six times slower.
        gathered = torch.index_select(self._layers[layer], 0, keys.flatten())
        key, value = gathered.view(keys.shape[0], -1, *gathered.shape[2:]).chunk(2, dim=-1)
        return key, value

    def decode(
        self, layer: int, query: Tensor, group: AttentionGroup, bias: Tensor | None, window: int, scale: float
    ) -> Tensor:
        """See `KeyValueStore`."""
        assert group.num_keys is not None
        cache = self._layers[layer]
        if group.tiles is not None and query.is_cpu and bias is None:
            return tile_attention(
                query, cache, group.keys, group.num_keys, group.tiles, scale=scale, window=window
            )
        if group.tiles is not None:
            return paged.attend(query, cache, group.keys, group.num_keys, group.tiles, scale, bias, window)
        return kernels.decode_attention(query, cache, group.keys, group.num_keys, scale, bias, window)

    def paged_queries(self, group: AttentionGroup) -> PagedQueries | None:
        """See `KeyValueStore`."""
        assert group.num_keys is not None
        slots = self._write_blocks, self._write_offsets
        return PagedQueries(self._layers, group.keys, group.num_keys, *slots, group.tiles)
