"""The kernels that encoders are served by; a caller asks `model.kernels.can_run` first."""

import torch
from torch import Tensor

from model.kernels import FEW_ELEMENTS, _num_threads, _with_heads_side_by_side, library


def packed_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    starts: Tensor,
    lengths: Tensor,
    longest: int,
    scale: float,
    bias: Tensor | None = None,
    window: int = 0,
    level: int = 0,
) -> Tensor:
    """Each token over all of its own text, of texts that lie end to end and are all of the rows.

    query [n, h, d], key and value [n, kv, d]; a text is `lengths` [b] int64 rows from `starts` [b] on, and none has
    more than `longest`. `bias` [h, 2 * longest - 1] of their dtype is added to the scores of keys that stand so far
    behind the query, from 1 - longest on. A `window` over 0 hides keys that stand so far away or further. A `level`
    over 0 leaves out what the best processors have, for tests. Returns [n, h, d]. Sums are float32; a text has
    the same bits whatever stands beside it.
    """
    n, h, d = query.shape
    out = torch.empty(n, h, d, dtype=query.dtype)
    query, key, value = (_with_heads_side_by_side(x) for x in (query, key, value))
    bias = None if bias is None else bias.contiguous()
    library().packed_attention(
        query.data_ptr(),
        key.data_ptr(),
        value.data_ptr(),
        starts.data_ptr(),
        lengths.data_ptr(),
        None if bias is None else bias.data_ptr(),
        out.data_ptr(),
        len(lengths),
        h,
        key.shape[1],
        d,
        query.stride(0),
        key.stride(0),
        value.stride(0),
        longest,
        window,
        level,
        scale,
        query.dtype is torch.bfloat16,
        _num_threads(n * h * d, FEW_ELEMENTS),
    )
    return out


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """LayerNorm over the last dimension, [..., size]; `weight` and `bias` [size]."""
    return _layer_norm(x.contiguous(), None, None, weight, bias, eps)


def add_layer_norm(
    x: Tensor, update: Tensor, weight: Tensor, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor]:
    """x + update, and `layer_norm` of that sum; all [..., size]."""
    total = torch.empty_like(x, memory_format=torch.contiguous_format)
    return total, _layer_norm(x.contiguous(), update.contiguous(), total, weight, bias, eps)


def layer_norm_of_sum(x: Tensor, update: Tensor, weight: Tensor, bias: Tensor | None, eps: float) -> Tensor:
    """The second of `add_layer_norm` alone."""
    return _layer_norm(x.contiguous(), update.contiguous(), None, weight, bias, eps)


def _layer_norm(
    x: Tensor, update: Tensor | None, total: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float
) -> Tensor:
    """Where nobody wants the sum it is made where the result will be."""
    out = torch.empty_like(x)
    size, num_elements = weight.shape[0], x.numel()
    library().layer_norm(
        x.data_ptr(),
        None if update is None else update.data_ptr(),
        weight.data_ptr(),
        None if bias is None else bias.data_ptr(),
        (out if total is None else total).data_ptr(),
        out.data_ptr(),
        num_elements // size,
        size,
        eps,
        x.dtype is torch.bfloat16,
        _num_threads(num_elements, FEW_ELEMENTS),
    )
    return out
