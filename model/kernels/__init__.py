"""Kernels of our own in C++, built with the package where there is a compiler; without them the plain bodies serve."""

import ctypes
from pathlib import Path

import torch
from torch import Tensor

FEW_NUMBERS = 2**21
"""Keys and values that one thread reads in some tenths of a millisecond."""


class _Arguments(ctypes.Structure):
    """`DecodeAttention` of decode_attention.cpp."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("query", "cache", "tables", "num_keys", "bias", "out")),
        *((name, ctypes.c_int64) for name in ("b", "h", "kv", "d", "block", "num_blocks")),
        *((name, ctypes.c_int64) for name in ("query_stride", "page_stride")),
        *((name, ctypes.c_int64) for name in ("bias_row_stride", "bias_head_stride", "window")),
        ("scale", ctypes.c_float),
    )


def _library() -> ctypes.CDLL | None:
    """torch is loaded by now, so that both share one OpenMP library and its threads."""
    for file in Path(__file__).parent.glob("_decode_attention*.so"):
        try:
            library = ctypes.CDLL(str(file))
        except OSError:  # built on another system
            continue
        library.decode_attention.restype = None
        library.decode_attention.argtypes = [ctypes.POINTER(_Arguments), ctypes.c_int32, ctypes.c_int32]
        return library
    return None


_LIBRARY = _library()


def can_decode(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `decode_attention` takes such tensors here."""
    return _LIBRARY is not None and device.type == "cpu" and dtype in (torch.float32, torch.bfloat16)


def decode_attention(
    query: Tensor,
    cache: Tensor,
    tables: Tensor,
    num_keys: Tensor,
    scale: float,
    bias: Tensor | None = None,
    window: int = 0,
) -> Tensor:
    """One query a sequence over the keys and values of its blocks, which are read where they lie.

    query [b, h, d]; one layer's cache [pages, block, kv, 2 * d], each position's keys before its values;
    tables [b, blocks] and num_keys [b] int64; bias [b or 1, h or 1, 1, keys] of the cache's dtype; a `window`
    over 0 looks at that many last keys only. Returns [b, h, d]. Sums are float32 whatever the dtype.
    """
    assert _LIBRARY is not None, "see can_decode"
    b, h, d = query.shape
    out = torch.empty(b, h, d, dtype=query.dtype)
    if query.stride()[1:] != (d, 1):
        query = query.contiguous()
    arguments = _Arguments(
        query=query.data_ptr(),
        cache=cache.data_ptr(),
        tables=tables.data_ptr(),
        num_keys=num_keys.data_ptr(),
        bias=None,
        out=out.data_ptr(),
        b=b,
        h=h,
        kv=cache.shape[2],
        d=d,
        block=cache.shape[1],
        num_blocks=tables.shape[1],
        query_stride=query.stride(0),
        page_stride=cache.stride(0),
        window=window,
        scale=scale,
    )
    if bias is not None:
        bias = bias if bias.stride(-1) == 1 else bias.contiguous()
        arguments.bias = bias.data_ptr()
        arguments.bias_row_stride = bias.stride(0) if bias.shape[0] > 1 else 0
        arguments.bias_head_stride = bias.stride(1) if bias.shape[1] > 1 else 0
    num_numbers = tables.numel() * cache.shape[1] * cache.shape[2] * 2 * d
    num_threads = torch.get_num_threads() if num_numbers > FEW_NUMBERS else 1
    _LIBRARY.decode_attention(ctypes.byref(arguments), query.dtype == torch.bfloat16, num_threads)
    return out
