"""The plain loop: one static batch, greedy, with a cache that grows by concatenation.

The slow twin that defines which tokens the engine must produce, and the decoder of evaluation.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from model.kernels.decoder import PagedQueries
from model.layers.attention_ops import dense_attention
from model.layers.context import KeyValue
from model.layers.linear import AdapterSpans
from model.layers.masks import bias_mask, window_mask
from model.layers.positions import RelativeBias
from model.transformer import Transformer


@dataclass
class GrowingContext:
    """Left-padded prompts and one more token each step; keys and values as dense [b, k, kv, d]."""

    mask: Tensor  # [b, k] true for real keys so far
    num_new: int
    memory: Tensor | None = None
    memory_mask: Tensor | None = None
    adapter_spans: AdapterSpans = ()
    memory_spans: AdapterSpans = ()
    cache: dict[int, KeyValue] = field(default_factory=dict)
    cross_cache: dict[int, KeyValue] = field(default_factory=dict)

    def grow(self) -> None:
        """Makes room for one token more in each row; what was read of the memory stays in the cache."""
        self.mask = torch.nn.functional.pad(self.mask, (0, 1), value=True)
        self.num_new, self.memory = 1, None

    def select(self, rows: Tensor) -> None:
        """Goes on with these rows, in this order; a row may come more than once."""
        self.mask = self.mask[rows]
        self.memory_mask = None if self.memory_mask is None else self.memory_mask[rows]
        for cache in (self.cache, self.cross_cache):
            for layer, (key, value) in cache.items():
                cache[layer] = (key[rows], value[rows])

    @property
    def positions(self) -> Tensor:
        """See `AttentionContext`."""
        return (self.mask.long().cumsum(1) - 1).clamp(min=0)[:, -self.num_new :].flatten()

    def position_bias(self, relative: RelativeBias) -> Sequence[Tensor]:
        """See `AttentionContext`."""
        return (relative(*self.pairs()[0]),)

    def pairs(self) -> Sequence[tuple[Tensor, Tensor]]:
        """See `AttentionContext`."""
        steps = torch.arange(self.mask.shape[1], device=self.mask.device)
        return ((steps[None, -self.num_new :], steps),)

    def pair_bias(
        self, rows: Sequence[Tensor], by_query: Tensor | None, by_key: Tensor | None
    ) -> Sequence[Tensor]:
        """See `AttentionContext`."""
        raise ValueError("a decoder keeps no scores of the keys of earlier passes")

    def attend(
        self,
        layer: int,
        query: Tensor,
        fresh: KeyValue,
        scale: float,
        bias: Sequence[Tensor] | None,
        window: int = 0,
    ) -> Tensor:
        """See `AttentionContext`."""
        b, k = self.mask.shape
        new = tuple(x.view(b, self.num_new, *x.shape[1:]) for x in fresh)
        if layer in self.cache:
            new = tuple(torch.cat(pair, dim=1) for pair in zip(self.cache[layer], new, strict=True))
        self.cache[layer] = (new[0], new[1])
        steps = torch.arange(k, device=query.device)
        allowed = self.mask[:, None, None, :] & (steps[None, :] <= steps[-self.num_new :, None])
        allowed = allowed | (steps[None, :] == steps[-self.num_new :, None])
        if window:
            allowed = window_mask(allowed, steps[None, -self.num_new :], steps, window)
        mask = allowed if bias is None else bias_mask(allowed, bias[0], query.dtype)
        return self._run(query, self.cache[layer], mask, scale)

    def attend_memory(self, layer: int, query: Tensor, fresh: KeyValue | None, scale: float) -> Tensor:
        """See `AttentionContext`."""
        b = self.mask.shape[0]
        if fresh is not None:
            key, value = (x.view(b, -1, *x.shape[1:]) for x in fresh)
            self.cross_cache[layer] = (key, value)
        assert self.memory_mask is not None
        return self._run(query, self.cross_cache[layer], self.memory_mask[:, None, None, :], scale)

    def paged_queries(self) -> PagedQueries | None:
        """None: nothing is paged."""
        return None

    def _run(self, query: Tensor, stored: KeyValue, mask: Tensor | None, scale: float) -> Tensor:
        b = self.mask.shape[0]
        out = dense_attention(query.view(b, -1, *query.shape[1:]), *stored, mask, scale)
        return out.reshape(query.shape)


def begin(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    forced_bos_token: int | None = None,
    adapter: str | None = None,
) -> tuple[Tensor, GrowingContext]:
    """What the decoder reads first, [b, t] ids, and the context of that pass.

    An encoder-decoder's prompts are sources.
    """
    config = model.config
    device = model.embeddings.words.weight.device
    memory = memory_mask = None
    if config.kind == "encoder-decoder":
        source, memory_mask = pad(prompts, config.pad_token_id, device, left=False)
        memory = model.encode_padded(source, memory_mask, adapter=adapter).flatten(0, 1)
        forced = [] if forced_bos_token is None else [forced_bos_token]
        prompts = [[config.decoder_start_token_id or 0, *forced]] * len(prompts)
    ids, mask = pad(prompts, config.pad_token_id, device, left=True)
    context = GrowingContext(mask, ids.shape[1], memory, memory_mask)
    context.memory_spans = ((adapter, 0, len(memory)),) if adapter and memory is not None else ()
    return ids, context


@torch.inference_mode()
def generate_greedy(
    model: Transformer,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    ignore_eos: bool = False,
    forced_bos_token: int | None = None,
    suppressed: Sequence[int] = (),
    adapter: str | None = None,
) -> list[list[int]]:
    """New tokens for each prompt (source, for an encoder-decoder), the end token left out.

    `forced_bos_token` follows an encoder-decoder's start token; it is not new. `suppressed` are never chosen.
    """

    def spans(num_rows: int) -> AdapterSpans:
        return ((adapter, 0, num_rows),) if adapter else ()

    config = model.config
    ids, context = begin(model, prompts, forced_bos_token, adapter)
    results: list[list[int]] = [[] for _ in prompts]
    done = [False] * len(prompts)
    for _ in range(max_new_tokens):
        context.adapter_spans = spans(ids.numel())
        hidden = model.decode(ids.flatten(), context).view(*ids.shape, -1)[:, -1]
        logits = model.logits(hidden, spans(len(hidden)))
        logits[:, list(suppressed)] = -torch.inf
        chosen = logits.argmax(-1)
        for row, token in enumerate(chosen.tolist()):
            done[row] = done[row] or (token in config.eos_token_ids and not ignore_eos)
            if not done[row]:
                results[row].append(token)
        if all(done):
            break
        ids = chosen[:, None]
        context.grow()
    return results


def pad(
    sequences: Sequence[Sequence[int]], pad_id: int, device: torch.device, left: bool
) -> tuple[Tensor, Tensor]:
    """[b, t] ids and the boolean mask of real ones, padding on the given side."""
    longest = max(len(s) for s in sequences)
    ids, mask = [], []
    for s in sequences:
        gap = longest - len(s)
        real = [True] * len(s)
        ids.append([pad_id] * gap + list(s) if left else list(s) + [pad_id] * gap)
        mask.append([False] * gap + real if left else real + [False] * gap)
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
