"""Weights of 8 bits as a GPU multiplies them: what they lose, and the two ways to multiply with them."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from model.config import TransformerConfig
from model.fit import compare_names
from model.layers import eight_bits
from model.layers.eight_bits import FLOAT8, INT8, EightBitWeight, Numbers, can_multiply
from model.layers.quantized import Quantization, QuantizedWeight, quantizing
from model.loading import load_model, save_model
from model.transformer import Transformer, weight_bytes
from tests.tiny import BERT, LLAMA, T5, random_model


@settings(max_examples=30, deadline=None)
@given(
    st.integers(1, 40),
    st.integers(1, 70),
    st.integers(1, 9),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.integers(1, 100),
    st.sampled_from([FLOAT8, INT8]),
)
def test_a_product_is_that_with_what_the_codes_stand_for(
    out_features: int, in_features: int, rows: int, dtype: torch.dtype, at_once: int, numbers: Numbers
) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(out_features, in_features), torch.randn(2, rows, in_features).to(dtype)
    bias = torch.randn(out_features).to(dtype) if rows % 2 else None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(eight_bits, "_NUMBERS_AT_ONCE", at_once)  # in parts of some channels
        made = EightBitWeight(weight, dtype, numbers)
    wanted = functional.linear(x.double(), made.plain().double(), None if bias is None else bias.double())
    got = made(x, bias)
    assert got.dtype == dtype
    bound = 1e-4 if dtype == torch.float32 else 0.05
    torch.testing.assert_close(got.double(), wanted, atol=bound, rtol=bound)


def test_each_number_keeps_three_bits_behind_its_first_unless_it_is_tiny_beside_its_channels_largest() -> (
    None
):
    torch.manual_seed(0)
    weight = torch.randn(50, 300) * torch.logspace(-6, 6, 50)[:, None]
    weight[7] = 0.0
    made = EightBitWeight(weight, torch.float32, FLOAT8)
    error = (made.plain() - weight).abs()
    grain = weight.abs().amax(1, keepdim=True) / 448 * 2.0**-10
    assert bool((error <= weight.abs() * 2.0**-4 + grain).all())
    assert error.norm() > 0.01 * weight.norm()
    assert made.nbytes == 50 * 300 + 50 * 4


def test_an_integer_is_the_nearest() -> None:
    torch.manual_seed(0)
    weight = torch.randn(50, 300) * torch.logspace(-6, 6, 50)[:, None]
    weight[7] = 0.0
    made = EightBitWeight(weight, torch.float32, INT8)
    grain = weight.abs().amax(1, keepdim=True) / 127
    assert bool(((made.plain() - weight).abs() <= 0.501 * grain).all())
    assert made.nbytes == 50 * 300 + 50 * 4


@pytest.mark.parametrize("rows", [1, 5, 17, 40])
@pytest.mark.parametrize("numbers", [FLOAT8, INT8], ids=["fp8", "int8"])
def test_the_product_of_a_gpu_is_near_where_this_torch_has_it_on_a_cpu(numbers: Numbers, rows: int) -> None:
    torch.manual_seed(0)
    weight, x, bias = torch.randn(48, 64), torch.randn(rows, 64), torch.randn(48)
    codes, scales = numbers.encode(weight)
    try:
        got = numbers.multiply(x, codes, scales, bias)
    except (NotImplementedError, RuntimeError) as fault:
        pytest.skip(f"this torch has none on a CPU: {fault}")
    row_codes, row_scales = numbers.encode(x)
    wanted = functional.linear(row_codes.float() * row_scales, codes.float() * scales, bias)
    torch.testing.assert_close(got, wanted, atol=0.05, rtol=0.02)


def test_a_cpu_multiplies_plain_numbers() -> None:
    assert not can_multiply(INT8, torch.device("cpu"), 64, 64)


def test_integers_of_a_cpu_are_its_own_and_four_bits_are_only_there() -> None:
    device = SimpleNamespace(is_cpu=False, is_meta=False, is_floating_point=lambda: True)
    assert quantizing("int8", torch.bfloat16).takes(cast(Tensor, device))
    assert not quantizing("int4", torch.bfloat16).takes(cast(Tensor, device))
    assert isinstance(quantizing("int8", torch.bfloat16).pack(torch.randn(16, 8)), QuantizedWeight)
    assert not quantizing("int8", torch.bfloat16).takes(torch.zeros(16, 8, dtype=torch.int32))


@pytest.mark.parametrize("quantization", ["fp8", "int8"])
def test_what_is_quantized_is_not_packed_once_more(quantization: Quantization, tmp_path: Path) -> None:
    save_model(random_model(replace(LLAMA, tie_embeddings=False)), tmp_path)
    model = load_model(tmp_path, torch.float32, quantization=quantization)
    ids, mask = torch.randint(3, 96, (2, 9)), torch.ones(2, 9, dtype=torch.bool)
    with torch.inference_mode():
        before = _states(model, ids, mask)
        model.pack()
        torch.testing.assert_close(_states(model, ids, mask), before)


@pytest.mark.parametrize("config", [BERT, LLAMA, T5, replace(LLAMA, tie_embeddings=True)])
def test_whole_models_are_near_and_as_small_as_info_says(config: TransformerConfig, tmp_path: Path) -> None:
    save_model(random_model(config, dtype=torch.bfloat16), tmp_path)
    model = load_model(tmp_path, torch.bfloat16, quantization="fp8")
    scales = weight_bytes(model) - compare_names(tmp_path).quantized_bytes["fp8"]
    assert 0 < scales < 0.25 * weight_bytes(model)
    plain, made = load_model(tmp_path, torch.float32), load_model(tmp_path, torch.float32, quantization="fp8")
    ids, mask = torch.randint(3, 96, (2, 9)), torch.ones(2, 9, dtype=torch.bool)
    with torch.inference_mode():
        near, exact = (_states(one, ids, mask) for one in (made, plain))
    assert 1e-3 < (near - exact).norm() / exact.norm() < 0.25


def _states(model: Transformer, ids: Tensor, mask: Tensor) -> Tensor:
    """An encoder's, else the logits of what is decoded."""
    if model.config.kind == "encoder":
        return model.encode_padded(ids, mask)
    if model.config.kind == "decoder":
        return model.logits(model.decode_padded(ids, mask))
    return model.logits(model.decode_padded(ids, mask, model.encode_padded(ids, mask), mask))
