"""Norm, rotation, cache write, gate and argmax in one call each, against the plain bodies in float64."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from model import kernels
from model.config import TransformerConfig
from model.kernels import each
from model.layers.activations import find_activation
from model.layers.mlp import GATE_KERNELS
from model.layers.norms import RMSNorm, add_norm
from model.layers.positions import rotate
from model.transformer import Transformer
from tests.model.test_kernels import DTYPES as CACHED
from tests.model.test_kernels import needs_kernel
from tests.tiny import BERT, LLAMA, T5, random_model

DTYPES = [torch.float32, torch.bfloat16]
TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 0.01}
both_dtypes = pytest.mark.parametrize("dtype", DTYPES, ids=str)
pytestmark = needs_kernel


def assert_near(got: Tensor, wanted: Tensor) -> None:
    tolerance = TOLERANCES[got.dtype]
    torch.testing.assert_close(got.double(), wanted, atol=tolerance, rtol=tolerance)


def random(*shape: int, dtype: torch.dtype) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


@both_dtypes
@pytest.mark.parametrize("size", [1, 10, 64, 250])
@pytest.mark.parametrize("offset", [0.0, 1.0])
@torch.inference_mode()
def test_a_norm_is_the_plain_one_also_of_a_sum_and_of_rows_that_lie_apart(
    dtype: torch.dtype, size: int, offset: float
) -> None:
    norm = RMSNorm(size, 1e-5, offset)
    norm.weight.copy_(random(size, dtype=dtype))
    norm.to(dtype)
    plain = RMSNorm(size, 1e-5, offset).double()
    plain.load_state_dict(norm.state_dict())
    x, update = random(7, size, dtype=dtype) * 3, random(7, size, dtype=dtype)
    assert_near(norm(x), plain(x.double()))
    heads = random(5, 3, 2 * size, dtype=dtype)[:, 1:, :size]
    assert_near(norm(heads), plain(heads.double()))
    total, normed = add_norm(norm, x, update)
    assert torch.equal(total, x + update)
    assert_near(normed, plain(total.double()))
    assert_near(norm(torch.zeros_like(x)), torch.zeros(7, size, dtype=torch.float64))


@both_dtypes
@pytest.mark.parametrize(("heads", "d"), [(1, 2), (3, 10), (4, 64)])
@torch.inference_mode()
def test_a_rotation_turns_its_heads_where_they_lie_and_no_others(
    dtype: torch.dtype, heads: int, d: int
) -> None:
    joined = random(6, heads + 2, d, dtype=dtype)
    before = joined.clone()
    angles = random(6, d // 2, dtype=torch.float64)
    cosine = torch.cat((angles.cos(), angles.cos()), dim=-1)[:, None].to(dtype)
    sine = torch.cat((-angles.sin(), angles.sin()), dim=-1)[:, None].to(dtype)
    wanted = rotate(before.double(), (cosine.double(), sine.double()))
    turned = rotate(joined[:, :heads], (cosine, sine))
    assert turned.data_ptr() == joined.data_ptr()
    assert_near(turned, wanted[:, :heads])
    assert torch.equal(joined[:, heads:], before[:, heads:])
    apart = before.transpose(0, 1).contiguous().transpose(0, 1)
    assert_near(rotate(apart, (cosine, sine)), wanted)


@pytest.mark.parametrize(("dtype", "kept"), CACHED, ids=str)
@torch.inference_mode()
def test_keys_and_values_are_written_to_their_slots_and_nowhere_else(
    dtype: torch.dtype, kept: torch.dtype
) -> None:
    pages = random(9, 2, 4, 3, 20, dtype=kept)  # two layers in a page
    cache, wanted = pages.transpose(0, 1)[1], pages.clone()
    joined = random(5, 9, 10, dtype=dtype)
    key, value = joined[:, 2:5], joined[:, 6:]
    blocks, offsets = torch.tensor([8, 0, 3, 3, 5]), torch.tensor([0, 3, 1, 2, 2])
    wanted.transpose(0, 1)[1].index_put_((blocks, offsets), torch.cat((key, value), dim=-1).to(kept))
    kernels.write_cache(cache, key, value, blocks, offsets)
    assert torch.equal(pages, wanted)


@both_dtypes
@pytest.mark.parametrize("name", GATE_KERNELS)
@torch.inference_mode()
def test_a_gate_is_the_activation_times_the_other_half(dtype: torch.dtype, name: str) -> None:
    joined = random(5, 74, dtype=dtype) * 4
    joined[0, 37:41] = torch.tensor([-200.0, -60.0, 60.0, 200.0])
    up, gate = joined.split_with_sizes((37, 37), dim=-1)
    wanted = find_activation(name)(gate.double()) * up.double()
    assert_near(GATE_KERNELS[name](gate, up), wanted)


@torch.inference_mode()
def test_gelu_of_every_number_that_bfloat16_has() -> None:
    """Within what the next number is away; very small shares of what is far below nought may be another."""
    x = torch.arange(-(2**15), 2**15).to(torch.int16).view(torch.bfloat16)
    x = x[x.isfinite()]
    wanted = torch.nn.functional.gelu(x.double())
    got = each.gelu(x[None])[0].double()
    assert torch.all((got - wanted).abs() <= wanted.abs() * 2**-8 + 1e-6)
    assert each.gelu(torch.tensor([[float("nan")]], dtype=torch.bfloat16)).isnan().all()


@both_dtypes
@pytest.mark.parametrize("size", [1, 511, 512, 513, 1500])
@torch.inference_mode()
def test_the_largest_is_found_wherever_it_stands_and_the_first_of_equals(
    dtype: torch.dtype, size: int
) -> None:
    x = random(40, size, dtype=dtype)
    x[3] = float("-inf")
    x[4] = 5.0
    x[5, :-1], x[5, -1] = float("-inf"), -1e30
    x[6] = float("nan")
    x[7, 0] = float("nan")
    wanted = x.nan_to_num(nan=float("-inf"), neginf=float("-inf")).argmax(dim=-1)
    assert torch.equal(kernels.argmax(x), wanted)
    assert wanted[3:7].tolist() == [0, 0, size - 1, 0]


@both_dtypes
@torch.inference_mode()
def test_two_threads_give_what_one_gives(dtype: torch.dtype) -> None:
    x, y = random(700, 256, dtype=dtype), random(700, 256, dtype=dtype)
    cosine, sine = random(700, 1, 64, dtype=dtype), random(700, 1, 64, dtype=dtype)
    assert x.numel() > kernels.FEW_ELEMENTS

    def all_of_them() -> list[Tensor]:
        cache = torch.zeros(50, 16, 4, 128, dtype=dtype)
        key, value = x.view(700, 4, 64), y.view(700, 4, 64)
        slots = torch.arange(700)
        kernels.write_cache(cache, key, value, slots // 16, slots % 16)
        turned = kernels.rotate(key.clone(), cosine, sine)
        return [*kernels.add_rms_norm(x, y, x[0], 1e-6), kernels.silu_gate(x, y), turned, cache]

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = all_of_them()
        torch.set_num_threads(2)
        together = all_of_them()
    finally:
        torch.set_num_threads(before)
    for one, two in zip(alone, together, strict=True):
        assert torch.equal(one, two)


@pytest.mark.parametrize("config", [LLAMA, T5, BERT], ids=lambda config: config.family)
@both_dtypes
def test_a_model_computes_with_kernels_what_it_computes_without(
    config: TransformerConfig, dtype: torch.dtype
) -> None:
    model, plain = random_model(config, dtype=dtype), random_model(config, dtype=dtype).double()
    ids = torch.randint(3, 90, (3, 9), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids, dtype=torch.bool)
    hidden = [_hidden(one, ids, mask) for one in (model, plain)]
    error = (hidden[0].double() - hidden[1]).norm() / hidden[1].norm()
    assert error < {torch.float32: 1e-5, torch.bfloat16: 0.05}[dtype]


def test_kernels_serve_inference_in_one_dtype_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    single, wide = torch.ones(2), torch.ones(2, dtype=torch.float64)
    assert not kernels.can_run(single)  # gradients may be asked for
    with torch.inference_mode():
        assert kernels.can_run(single)
        assert not kernels.can_run(wide)
        assert not kernels.can_run(single, wide)
        assert not kernels.can_run(single.to("meta"))
    calls = _count_calls(monkeypatch)
    ids = torch.tensor([[5, 6, 7]])
    model = random_model(LLAMA, dtype=torch.float32)
    model.decode_padded(ids, torch.ones_like(ids, dtype=torch.bool))
    assert calls == []
    with torch.no_grad():
        model.decode_padded(ids, torch.ones_like(ids, dtype=torch.bool))
    layer = ["rms_norm", "rotate", "add_rms_norm", "gate"]
    assert calls == [*layer, *layer, "rms_norm"]


def _hidden(model: Transformer, ids: Tensor, mask: Tensor) -> Tensor:
    with torch.inference_mode():
        if model.decoder is None:
            return model.encode_padded(ids, mask)
        memory = None if model.encoder is None else model.encode_padded(ids, mask)
        return model.decode_padded(ids, mask, memory, None if memory is None else mask)


def _count_calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    calls: list[str] = []

    def counted(name: str, kernel: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            calls.append(name)
            return kernel(*arguments)

        return call

    for name in ("rms_norm", "add_rms_norm", "rotate"):
        monkeypatch.setattr(kernels, name, counted(name, getattr(kernels, name)))
    monkeypatch.setattr(kernels, "_gate", counted("gate", kernels._gate))
    return calls
