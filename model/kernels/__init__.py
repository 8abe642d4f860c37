"""Kernels of our own in C++, built with the package where there is a compiler; without them the plain bodies serve.

They are for inference on a CPU, in float32 and bfloat16: a caller asks `can_run` and has a plain body for the rest.
"""

import ctypes
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

FEW_NUMBERS = 2**21
"""Keys and values that one thread reads in some tenths of a millisecond."""
FEW_ELEMENTS = 2**17
"""What one thread norms, turns or gates before another would have woken up."""

_DTYPES = (torch.float32, torch.bfloat16)
_KERNELS: Mapping[str, tuple[int, int, int]] = {
    "decode_attention": (6, 12, 1),
    "tile_attention": (6, 11, 1),
    "rms_norm": (5, 2, 2),
    "rotate": (3, 4, 0),
    "write_cache": (5, 7, 0),
    "silu_gate": (3, 4, 0),
    "gelu_tanh_gate": (3, 4, 0),
    "gelu": (2, 2, 0),
    "silu": (2, 2, 0),
    "argmax": (2, 2, 0),
    "quantized_linear": (6, 7, 0),
    "quantized_argmax": (6, 7, 0),
    "bfloat16_linear": (4, 4, 0),
    "lay_out_bfloat16": (2, 3, 0),
    "packed_attention": (7, 10, 1),
    "layer_norm": (6, 2, 1),
    "log_softmax": (1, 2, 0),
    "largest_numbers": (3, 3, 0),
}
"""How many addresses, sizes and real numbers each takes, in this order; then `is_bfloat16` and `num_threads`."""


def _library() -> ctypes.CDLL | None:
    """torch is loaded by now, so that both share one OpenMP library and its threads."""
    for file in Path(__file__).parent.glob("_kernels*.so"):
        try:
            library = ctypes.CDLL(str(file))
        except OSError:  # built on another system
            continue
        for name, (addresses, sizes, reals) in _KERNELS.items():
            function = getattr(library, name)
            function.restype = None
            function.argtypes = (
                *(ctypes.c_void_p,) * addresses,
                *(ctypes.c_int64,) * sizes,
                *(ctypes.c_float,) * reals,
                *(ctypes.c_int32,) * 2,
            )
        library.decode_layers.restype = None
        return library
    return None


_LIBRARY = _library()


def library() -> ctypes.CDLL:
    """What was built; only where `can_decode` or `can_run` say so."""
    assert _LIBRARY is not None, "see can_run"
    return _LIBRARY


def has_bfloat16_linear() -> bool:
    """Whether the library has products for this processor's bfloat16, see `model.kernels.bfloat16`."""
    return _LIBRARY is not None and bool(_LIBRARY.has_bfloat16_linear())


def can_decode(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether `decode_attention` takes such tensors here."""
    return _LIBRARY is not None and device.type == "cpu" and dtype in _DTYPES


def can_run(x: Tensor, *others: Tensor) -> bool:
    """Whether the kernels take these together, here and now: one dtype that they know, and no gradients."""
    if _LIBRARY is None or torch.is_grad_enabled() or not x.is_cpu:
        return False
    dtype = x.dtype
    for other in others:  # several times in each layer: a generator would double the time
        if other.dtype is not dtype:
            return False
    return dtype in _DTYPES


def can_cache(dtype: torch.dtype, cache: Tensor) -> bool:
    """Whether kernels take rows of a dtype that they know together with this cache: its numbers are as the rows', or
    bfloat16."""
    return cache.dtype is dtype or cache.dtype is torch.bfloat16


def decode_attention(
    query: Tensor,
    cache: Tensor,
    tables: Tensor,
    num_keys: Tensor,
    scale: float,
    bias: Tensor | None = None,
    window: int = 0,
) -> Tensor:
    """Single queries over the keys and values of their blocks, which are read where they lie.

    query [b, h, d]; one layer's cache [pages, block, kv, 2 * d], each position's keys before its values, see
    `can_cache`; tables [b, blocks] and num_keys [b] int64; bias [b or 1, h or 1, 1, keys] of the query's dtype; a
    `window` over 0 looks at that many last keys only. Returns [b, h, d]. Sums are float32 whatever the dtypes.
    """
    assert _LIBRARY is not None, "see can_decode"
    b, h, d = query.shape
    out = torch.empty(b, h, d, dtype=query.dtype)
    query = _with_heads_side_by_side(query)
    _, block, kv, width = cache.shape
    bias_address, bias_row_stride, bias_head_stride = None, 0, 0
    if bias is not None:
        bias = bias if bias.stride(-1) == 1 else bias.contiguous()
        bias_address = bias.data_ptr()
        bias_row_stride = bias.stride(0) if bias.shape[0] > 1 else 0
        bias_head_stride = bias.stride(1) if bias.shape[1] > 1 else 0
    _LIBRARY.decode_attention(
        query.data_ptr(),
        cache.data_ptr(),
        tables.data_ptr(),
        num_keys.data_ptr(),
        bias_address,
        out.data_ptr(),
        b,
        h,
        kv,
        d,
        block,
        tables.shape[1],
        query.stride(0),
        cache.stride(0),
        bias_row_stride,
        bias_head_stride,
        window,
        cache.dtype is torch.bfloat16,
        scale,
        query.dtype is torch.bfloat16,
        _num_threads(tables.numel() * block * kv * width, FEW_NUMBERS),
    )
    return out


def rms_norm(x: Tensor, weight: Tensor, eps: float, offset: float = 0.0) -> Tensor:
    """x / rms(x) * (offset + weight) over the last dimension, [..., size] and [size]."""
    return _rms_norm(x.contiguous(), None, None, weight, eps, offset)


def add_rms_norm(
    x: Tensor, update: Tensor, weight: Tensor, eps: float, offset: float = 0.0
) -> tuple[Tensor, Tensor]:
    """x + update, and `rms_norm` of that sum; all [..., size]."""
    total = torch.empty_like(x, memory_format=torch.contiguous_format)
    return total, _rms_norm(x.contiguous(), update.contiguous(), total, weight, eps, offset)


def _rms_norm(
    x: Tensor, update: Tensor | None, total: Tensor | None, weight: Tensor, eps: float, offset: float
) -> Tensor:
    assert _LIBRARY is not None, "see can_run"
    out = torch.empty_like(x)
    size, num_elements = weight.shape[0], x.numel()
    _LIBRARY.rms_norm(
        x.data_ptr(),
        None if update is None else update.data_ptr(),
        weight.data_ptr(),
        None if total is None else total.data_ptr(),
        out.data_ptr(),
        num_elements // size,
        size,
        eps,
        offset,
        x.dtype is torch.bfloat16,
        _num_threads(num_elements, FEW_ELEMENTS),
    )
    return out


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """`model.layers.positions.rotate` in place where a row's heads lie side by side, else of a copy.

    x [n, h, d], cosine and sine [n, 1, d]. Returns what was turned.
    """
    assert _LIBRARY is not None, "see can_run"
    x = _with_heads_side_by_side(x)
    n, h, d = x.shape
    _LIBRARY.rotate(
        x.data_ptr(),
        cosine.data_ptr(),
        sine.data_ptr(),
        n,
        h,
        d,
        x.stride(0),
        x.dtype is torch.bfloat16,
        _num_threads(n * h * d, FEW_ELEMENTS),
    )
    return x


def write_cache(cache: Tensor, key: Tensor, value: Tensor, blocks: Tensor, offsets: Tensor) -> None:
    """Keys and values [n, kv, d] into one layer's cache [pages, block, kv, 2 * d], each to its block and offset; see
    `can_cache`."""
    assert _LIBRARY is not None, "see can_run"
    key, value = _with_heads_side_by_side(key), _with_heads_side_by_side(value)
    n, kv, d = key.shape
    _LIBRARY.write_cache(
        key.data_ptr(),
        value.data_ptr(),
        cache.data_ptr(),
        blocks.data_ptr(),
        offsets.data_ptr(),
        n,
        kv,
        d,
        key.stride(0),
        value.stride(0),
        cache.stride(0),
        cache.dtype is torch.bfloat16,
        key.dtype is torch.bfloat16,
        _num_threads(n * kv * d, FEW_ELEMENTS),
    )


def silu_gate(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) * up, each [n, width] with any stride from row to row."""
    assert _LIBRARY is not None, "see can_run"
    return _gate(_LIBRARY.silu_gate, gate, up)


def gelu_tanh_gate(gate: Tensor, up: Tensor) -> Tensor:
    """gelu(gate) * up by gelu's tanh approximation, each [n, width] with any stride from row to row."""
    assert _LIBRARY is not None, "see can_run"
    return _gate(_LIBRARY.gelu_tanh_gate, gate, up)


def _gate(kernel: Callable[..., object], gate: Tensor, up: Tensor) -> Tensor:
    gate = gate if gate.stride(1) == 1 else gate.contiguous()
    up = up if up.stride(1) == 1 else up.contiguous()
    n, width = gate.shape
    out = torch.empty(n, width, dtype=gate.dtype)
    kernel(
        gate.data_ptr(),
        up.data_ptr(),
        out.data_ptr(),
        n,
        width,
        gate.stride(0),
        up.stride(0),
        gate.dtype is torch.bfloat16,
        _num_threads(n * width, FEW_ELEMENTS),
    )
    return out


def argmax(x: Tensor) -> Tensor:
    """The place [n] int64 of the first largest number in each row of x [n, size], NaN left out; 0 where all are
    minus infinity."""
    assert _LIBRARY is not None, "see can_run"
    x = x.contiguous()
    n, size = x.shape
    out = torch.empty(n, dtype=torch.int64)
    threads = _num_threads(n * size, FEW_NUMBERS)
    _LIBRARY.argmax(x.data_ptr(), out.data_ptr(), n, size, x.dtype is torch.bfloat16, threads)
    return out


def _with_heads_side_by_side(x: Tensor) -> Tensor:
    """[n, h, d] with any stride from row to row, and none to spare within a row."""
    return x if x.stride()[1:] == (x.shape[2], 1) else x.contiguous()


def _num_threads(amount: int, few: int) -> int:
    return torch.get_num_threads() if amount > few else 1
