"""The bodies of attention: one that is plainly right, and one that serves many sequences in a call.

Shapes: `t` queries and `k` keys of `b` sequences, `h` heads over `kv` key-value heads of size `d`.
"""

import torch
from torch import Tensor
from torch.nn import functional


def reference_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, bias: Tensor | None = None
) -> Tensor:
    """softmax(scale · Q Kᵀ + bias) V, written out (Vaswani et al. 2017, arXiv:1706.03762, section 3.2).

    query [b, t, h, d], key and value [b, k, kv, d], mask [b, 1, t, k] true where a query may look,
    bias broadcastable to [b, h, t, k]; returns [b, t, h, d]. A query that may look nowhere gives zeros.
    """
    shared = query.shape[2] // key.shape[2]
    key = key.repeat_interleave(shared, dim=2)
    value = value.repeat_interleave(shared, dim=2)
    scores = torch.einsum("bthd,bkhd->bhtk", query, key) * scale
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = torch.softmax(scores, dim=-1)
    if mask is not None:
        weights = weights.masked_fill(~mask, 0.0)
    return torch.einsum("bhtk,bkhd->bthd", weights, value)


def dense_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """The same by torch's fused kernel; `mask` is boolean, or additive where there is a position bias.

    query [b, t, h, d], key and value [b, k, kv, d], mask broadcastable to [b, h, t, k];
    returns [b, t, h, d]. Query heads that share a key-value head are laid out as further
    queries of it, so that keys and values are never repeated in memory.
    """
    b, t, h, d = query.shape
    kv = key.shape[2]
    shared = h // kv
    key, value = key.transpose(1, 2), value.transpose(1, 2)  # [b, kv, k, d]
    if shared == 1:
        out = functional.scaled_dot_product_attention(
            query.transpose(1, 2), key, value, attn_mask=mask, scale=scale
        )
        return out.transpose(1, 2)
    query = query.view(b, t, kv, shared, d).permute(0, 2, 3, 1, 4).reshape(b, kv, shared * t, d)
    if mask is not None and (t > 1 or mask.shape[1] == h):  # a single query's mask is that of all its heads
        k = key.shape[2]
        heads = mask.shape[1]
        mask = mask.expand(b, heads, t, k)
        mask = (
            mask.reshape(b, kv, shared, t, k) if heads == h else mask[:, :, None].expand(b, 1, shared, t, k)
        )
        mask = mask.reshape(b, -1, shared * t, k)
    out = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scale)
    return out.view(b, kv, shared, t, d).permute(0, 3, 1, 2, 4).reshape(b, t, h, d)
