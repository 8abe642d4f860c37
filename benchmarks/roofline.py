"""What a device could do at most: the time in which its memory brings a step's bytes, or it does the arithmetic."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn

from model.layers.attention import CrossAttention
from model.layers.linear import Linear
from model.transformer import Transformer

_COPIED_BYTES = 2**30
_SIZE = 8192
_TRIES = 5


@dataclass(frozen=True)
class Limits:
    """Of a device, measured: bytes read or written a second, and operations of products in the model's dtype."""

    bytes_per_s: float
    flops_per_s: float


@dataclass(frozen=True)
class Cost:
    """Of some work: what is read and written at least, and the operations of its products (a multiply-add is two)."""

    num_bytes: float
    num_flops: float

    def seconds(self, limits: Limits) -> float:
        """At least."""
        return max(self.num_bytes / limits.bytes_per_s, self.num_flops / limits.flops_per_s)


def product_numbers(stack: nn.Module) -> int:
    """Weights that each token of a stack is multiplied with: of cross-attention not those that encoded tokens are."""
    linears = {id(one): one for one in stack.modules() if isinstance(one, Linear)}
    for module in stack.modules():
        if isinstance(module, CrossAttention):
            for once in (module.key, module.value):
                del linears[id(once)]
    return sum(one.weight.numel() for one in linears.values())


def decode_cost(
    model: Transformer, batch: int, context: float, num_source: float = 0, weight_bytes: float = 2
) -> Cost:
    """One step of `batch` sequences, each behind `context` tokens (and `num_source` encoded ones): all weights once,
    all keys and values once. Keys and values take two bytes a number, weights `weight_bytes`."""
    config = model.config
    assert model.decoder is not None
    numbers = product_numbers(model.decoder) + config.vocab_size * config.hidden_size
    seen = batch * (context + num_source) * config.num_decoder_layers
    kept = 2 * config.num_kv_heads * config.head_dim * 2
    return Cost(
        num_bytes=numbers * weight_bytes + seen * kept,
        num_flops=2 * numbers * batch + 4 * config.num_heads * config.head_dim * seen,
    )


def encode_cost(model: Transformer, lengths: list[int], weight_bytes: float = 2) -> Cost:
    """Texts in one pass, of an encoder or of a decoder's prompts; prompts' half of the pairs is counted as whole."""
    config = model.config
    stack = model.encoder if model.encoder is not None else model.decoder
    assert stack is not None
    numbers = product_numbers(stack)
    pairs = sum(length**2 for length in lengths) * len(stack.layers)
    return Cost(
        num_bytes=numbers * weight_bytes,
        num_flops=2 * numbers * sum(lengths) + 4 * config.num_heads * config.head_dim * pairs,
    )


@torch.inference_mode()
def measure_limits(device: torch.device) -> Limits:
    """By copying a gigabyte and multiplying two large matrices in bfloat16, the best of some."""
    source = torch.ones(_COPIED_BYTES, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    matrix = torch.randn(_SIZE, _SIZE, device=device).bfloat16()
    return Limits(
        2 * _COPIED_BYTES / _least_seconds(lambda: target.copy_(source)),
        2 * _SIZE**3 / _least_seconds(lambda: matrix @ matrix),
    )


def _least_seconds(work: Callable[[], object]) -> float:
    work()
    least = float("inf")
    for _ in range(_TRIES):
        torch.cuda.synchronize()
        start = time.perf_counter()
        work()
        torch.cuda.synchronize()
        least = min(least, time.perf_counter() - start)
    return least
