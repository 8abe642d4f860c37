"""All layers of a decoder in one call: what `decoder.cpp` is handed, as it lays it out.

Holds addresses of weights, and knows no modules; `model.fused` has those.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from model import kernels


class Product(ctypes.Structure):
    """A quantized weight as `quantized.h` has it, or without `scales` one of bfloat16 numbers as `bfloat16.h` has it;
    and its bias or None."""

    _fields_ = (
        ("weight", ctypes.c_void_p),
        ("scales", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("in_features", ctypes.c_int64),
        ("padded", ctypes.c_int64),
        ("out_features", ctypes.c_int64),
        ("group", ctypes.c_int64),
    )


class Layer(ctypes.Structure):
    """Norms are None where there are none; `inputs` are queries, keys, values, and `wide` is up, then gate."""

    _fields_ = (
        ("self_norm", ctypes.c_void_p),
        ("query_norm", ctypes.c_void_p),
        ("key_norm", ctypes.c_void_p),
        ("self_post_norm", ctypes.c_void_p),
        ("mlp_norm", ctypes.c_void_p),
        ("mlp_post_norm", ctypes.c_void_p),
        ("inputs", Product),
        ("output", Product),
        ("wide", Product),
        ("down", Product),
        ("window", ctypes.c_int64),
        ("rotation", ctypes.c_int64),
    )


class Decoder(ctypes.Structure):
    """Whoever makes one keeps alive what it points to."""

    _fields_ = (
        ("layers", ctypes.POINTER(Layer)),
        ("final_norm", ctypes.c_void_p),
        ("num_layers", ctypes.c_int64),
        ("hidden", ctypes.c_int64),
        ("heads", ctypes.c_int64),
        ("kv", ctypes.c_int64),
        ("d", ctypes.c_int64),
        ("intermediate", ctypes.c_int64),
        ("scale", ctypes.c_float),
        ("eps", ctypes.c_float),
        ("offset", ctypes.c_float),
        ("is_gelu", ctypes.c_int32),
        ("is_bfloat16", ctypes.c_int32),
    )


class _Step(ctypes.Structure):
    _fields_ = (
        ("x", ctypes.c_void_p),
        ("out", ctypes.c_void_p),
        ("cosines", ctypes.POINTER(ctypes.c_void_p)),
        ("sines", ctypes.POINTER(ctypes.c_void_p)),
        ("caches", ctypes.POINTER(ctypes.c_void_p)),
        ("tables", ctypes.c_void_p),
        ("num_keys", ctypes.c_void_p),
        ("blocks", ctypes.c_void_p),
        ("offsets", ctypes.c_void_p),
        ("tiles", ctypes.c_void_p),
        ("wanted", ctypes.c_void_p),
        ("num_rows", ctypes.c_int64),
        ("num_tiles", ctypes.c_int64),
        ("num_wanted", ctypes.c_int64),
        ("block", ctypes.c_int64),
        ("num_blocks", ctypes.c_int64),
        ("page_stride", ctypes.c_int64),
        ("num_threads", ctypes.c_int32),
    )


@dataclass(frozen=True)
class PagedQueries:
    """Rows that each look at the first `num_keys` [n] keys of their blocks `tables` [n, blocks], their own among
    them, which is written to `blocks` and `offsets` [n]; all int64.

    `caches` are the layers', each [pages, block, kv, 2 * d]. With `tiles`, see `model.kernels.paged`, rows of one
    sequence are attended some at once.
    """

    caches: Sequence[Tensor]
    tables: Tensor
    num_keys: Tensor
    blocks: Tensor
    offsets: Tensor
    tiles: Tensor | None = None


def decode_layers(
    decoder: Decoder,
    x: Tensor,
    rotations: Sequence[tuple[Tensor, Tensor]],
    queries: PagedQueries,
    wanted: Tensor | None = None,
) -> Tensor:
    """Embedded rows x [n, hidden] to the states behind the last norm, [n, hidden] or those of the rows `wanted` [m]
    int64; writes all keys and values.

    `rotations` are cosines and sines [n, 1, d] of each kind of layer.
    """
    library = kernels.library()
    x, tiles = x.contiguous(), queries.tiles
    out = torch.empty(len(x) if wanted is None else len(wanted), x.shape[1], dtype=x.dtype)
    first, tables = queries.caches[0], queries.tables
    step = _Step(
        x.data_ptr(),
        out.data_ptr(),
        _addresses([cosine for cosine, _ in rotations]),
        _addresses([sine for _, sine in rotations]),
        _addresses(queries.caches),
        tables.data_ptr(),
        queries.num_keys.data_ptr(),
        queries.blocks.data_ptr(),
        queries.offsets.data_ptr(),
        None if tiles is None else tiles.data_ptr(),
        None if wanted is None else wanted.data_ptr(),
        x.shape[0],
        0 if tiles is None else len(tiles),
        0 if wanted is None else len(wanted),
        first.shape[1],
        tables.shape[1],
        first.stride(0),
        torch.get_num_threads(),
    )
    library.decode_layers(ctypes.byref(decoder), ctypes.byref(step))
    return out


def _addresses(tensors: Sequence[Tensor]) -> "ctypes.Array[ctypes.c_void_p]":
    return (ctypes.c_void_p * len(tensors))(*[tensor.data_ptr() for tensor in tensors])
