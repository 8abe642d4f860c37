"""Decode steps that were recorded once and are only replayed: on a GPU starting a step's many kernels takes longer than
they do.

A step is padded with rows to the next size there is a recording of. Such a row is a sequence of one token in a page
that nobody is given. Recorded is the decoder's stack; the words' scores and sampling come behind it as ever.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from app.engine.batch import Batch
from app.engine.kv_cache import PagedStore
from model.layers.grouped_context import AttentionGroup, GroupedContext
from model.transformer import Transformer

MAX_ROWS = 256
"""Larger steps are not recorded: starting their kernels takes no longer than these do."""
_LEAST_FREE_BYTES = 2**28
_NUM_WARM_UPS = 3

_log = logging.getLogger(__name__)


class Graph(Protocol):
    """A recording."""

    def replay(self) -> object:
        """Computes it once more, from what its inputs hold now, into the output that it had."""
        ...


Capture = Callable[[Callable[[], Tensor]], tuple[Graph, Tensor]]
"""Records a function without arguments, and has run it before: the recording and its output."""


@dataclass(frozen=True)
class GraphPlan:
    """How steps of up to `max_rows` rows are recorded; `spare_page` is of the arena and nobody's."""

    capture: Capture
    max_rows: int
    spare_page: int


class CudaCapture:
    """A `Capture` on a CUDA device. All that it records shares memory: one is replayed at a time."""

    def __init__(self, device: torch.device) -> None:
        self._device, self._pool = device, torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], Tensor]) -> tuple[Graph, Tensor]:
        free, _ = torch.cuda.mem_get_info(self._device)
        if free < _LEAST_FREE_BYTES:
            raise torch.OutOfMemoryError(f"{free >> 20} MiB are free, too few to record a step")
        # what is computed for the first time allocates and compiles, which cannot be recorded
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(_NUM_WARM_UPS):
                work()
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            output = work()
        return graph, output


def bucket_sizes(max_rows: int) -> list[int]:
    """Powers of two, up to the first that holds `max_rows` rows or MAX_ROWS."""
    sizes = [1]
    while sizes[-1] < min(max_rows, MAX_ROWS):
        sizes.append(2 * sizes[-1])
    return sizes


class DecodeGraphs:
    """Of one model, whose cache is `layers`; its sequences have at most `max_tokens` tokens on either side."""

    def __init__(
        self,
        model: Transformer,
        layers: Sequence[Tensor],
        max_tokens: int,
        rows_a_tile: int,
        plan: GraphPlan,
    ) -> None:
        """Records all sizes, the largest first. Where that fails, there are none."""
        self._model, self._layers, self._plan = model, layers, plan
        self._recorded: dict[int, tuple[Graph, Tensor]] = {}
        block, device = layers[0].shape[1], layers[0].device
        self._has_cross = model.config.kind == "encoder-decoder"
        num_blocks = min(-(-max_tokens // block), plan.spare_page)
        sizes = bucket_sizes(plan.max_rows)
        most = sizes[-1]
        # ids, positions, blocks, offsets, numbers of keys, and of the encoder's; each beside the next step's row
        self._padding = torch.tensor([[0], [0], [plan.spare_page], [0], [1], [1]], device=device)
        self._numbers = self._padding.repeat(1, most)
        self._tables = torch.full((most, num_blocks), plan.spare_page, device=device)
        self._cross_tables = self._tables.clone() if self._has_cross else self._tables
        self._key_positions = torch.arange(num_blocks * block, device=device)
        rows = torch.arange(most, device=device)
        self._tiles = torch.stack((rows, torch.ones_like(rows)), dim=1) if rows_a_tile else None
        try:
            for size in reversed(sizes):
                self._recorded[size] = plan.capture(partial(self._compute, size))
        except Exception as error:
            self._recorded.clear()
            _log.warning("steps are not recorded: %s: %s", type(error).__name__, error)

    def takes(self, batch: Batch) -> bool:
        """Whether a step is one of these: single rows that all are to be answered, drafted ones too, no adapters."""
        part = batch.decode
        if part is None or batch.encode is not None or batch.wanted is None or part.adapter_spans:
            return False
        groups = [part.groups, batch.cross_groups] if self._has_cross else [part.groups]
        return (
            0 < len(part.ids) <= max(self._recorded, default=0)
            and len(batch.wanted) == len(part.ids)
            and not any(rows.num_told for rows in batch.logit_rows)
            and all(len(of) == 1 and of[0].num_keys is not None for of in groups)
            and part.order is None
        )

    def run(self, batch: Batch) -> Tensor:
        """[num_tokens, hidden_size] of a step that it `takes`; valid until the next one."""
        part, slots = batch.decode, batch.slots
        assert part is not None
        assert slots is not None
        [group] = part.groups
        cross = batch.cross_groups[0] if self._has_cross else group
        n = len(part.ids)
        size = min(size for size in self._recorded if size >= n)
        assert group.num_keys is not None
        assert cross.num_keys is not None
        rows = (part.ids, part.positions, slots.blocks, slots.offsets, group.num_keys, cross.num_keys)
        self._numbers[:, :n] = torch.stack(rows)
        self._numbers[:, n:size] = self._padding
        # whatever padding's own tables hold, its rows write to the spare page, and nobody reads what they come to
        for tables, keys in ((self._tables, group.keys), (self._cross_tables, cross.keys)):
            tables[:n, : keys.shape[1]] = keys
        graph, hidden = self._recorded[size]
        graph.replay()
        return hidden[:n]

    @torch.inference_mode()
    def _compute(self, size: int) -> Tensor:
        """A step of so many rows, from what the buffers hold."""
        ids, positions, blocks, offsets, num_keys, num_cross_keys = self._numbers[:, :size]
        store = PagedStore(self._layers, blocks, offsets)
        context = GroupedContext(
            positions=positions,
            groups=[self._group(self._tables, num_keys)],
            order=None,
            store=store,
            dtype=self._model.dtype,
            cross_groups=[self._group(self._cross_tables, num_cross_keys)] if self._has_cross else (),
            cross_store=store if self._has_cross else None,
        )
        return self._model.decode(ids, context)

    def _group(self, tables: Tensor, num_keys: Tensor) -> AttentionGroup:
        size = len(num_keys)
        tiles = None if self._tiles is None else self._tiles[:size]
        last = num_keys[:, None] - 1
        return AttentionGroup(last, tables[:size], None, last, self._key_positions, num_keys, tiles=tiles)


def can_record(model: Transformer) -> bool:
    """Whether a step asks nothing of the device while it is computed: angles that depend on the longest sequence do."""
    config = model.config
    return config.num_decoder_layers > 0 and config.rope_scaling.get("rope_type") != "dynamic"
