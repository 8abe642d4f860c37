"""Quantized weights: kernels against the slow twin, the twin against exact products, models of every family."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from model import kernels
from model.kernels.quantized import quantized_argmax, quantized_linear
from model.layers.quantized import Integers, QuantizedWeight
from model.loading import load_model, save_model
from model.transformer import Transformer, weight_bytes
from tests.engine import test_decoder_families, test_encoder_decoders, test_encoders, test_engine_windows
from tests.tiny import BERT, LLAMA, T5, random_model

needs_kernels = pytest.mark.skipif(
    not kernels.can_decode(torch.device("cpu"), torch.float32),
    reason="the package was built without a C++ compiler",
)
ERRORS: dict[Integers, float] = {"int8": 0.015, "int4": 0.11}
"""Of products of normal numbers, rows quantized too, as a share of what they are."""
FAMILIES = (
    {"bert": BERT, "llama": LLAMA, "t5": T5}
    | test_encoders.CONFIGS
    | test_decoder_families.CONFIGS
    | test_encoder_decoders.CONFIGS
    | test_engine_windows.CONFIGS
)


def share(error: Tensor, of: Tensor) -> float:
    return float(error.double().norm() / of.double().norm())


@needs_kernels
@settings(max_examples=60, deadline=None)
@given(data=st.data())
@torch.inference_mode()
def test_kernels_compute_what_the_slow_twin_does(data: st.DataObject) -> None:
    """On every kind of processor that this one can pass for. Where a row's number lies between two codes rounding may
    take either, hence the tolerance."""
    draw = data.draw
    quantization: Integers = draw(st.sampled_from(["int8", "int4"]))
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))
    n, size, out = draw(st.integers(1, 70)), draw(st.integers(1, 200)), draw(st.integers(1, 200))
    torch.manual_seed(draw(st.integers(0, 2**20)))
    weight = QuantizedWeight(torch.randn(out, size), dtype, quantization)
    x = torch.randn(n, size + 3).to(dtype)[:, :size]  # rows that hold more
    bias = torch.randn(out).to(dtype) if draw(st.booleans()) else None
    wanted = weight.slow_product(x.float(), None if bias is None else bias.float())
    tolerance = 3e-3 if dtype is torch.float32 else 1e-2
    for level in range(3):
        got = quantized_linear(x, weight.laid_out, bias, level)
        assert got.dtype is dtype
        assert share(got - wanted, wanted) < tolerance
        largest = quantized_argmax(x, weight.laid_out, bias, level)
        assert torch.equal(largest, kernels.argmax(got))
    product = weight(x[:, None], bias)[:, 0]
    assert share(product - wanted, wanted) < tolerance


@needs_kernels
@pytest.mark.parametrize("num_threads", [1, 3])
@torch.inference_mode()
def test_the_first_of_equal_outputs_is_the_largest_and_no_number_never_is(num_threads: int) -> None:
    torch.manual_seed(2)
    numbers = torch.randn(100, 64).repeat(10, 1)  # each output ten times, in other panels
    weight, x, bias = QuantizedWeight(numbers, torch.float32, "int8"), torch.randn(64, 64), torch.zeros(1000)
    bias[7] = torch.nan
    x[5, 0] = torch.nan
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        largest = weight.argmax(x, bias)
    finally:
        torch.set_num_threads(before)
    assert largest is not None
    assert torch.equal(largest, kernels.argmax(weight(x, bias)))
    assert set(largest.tolist()) <= {*range(100), 107}  # 7 is no number
    assert largest[5] == 0


@needs_kernels
@pytest.mark.parametrize("num_threads", [1, 2, 5])
@torch.inference_mode()
def test_the_largest_output_is_found_wherever_it_is(num_threads: int) -> None:
    torch.manual_seed(2)
    weight, x = QuantizedWeight(torch.randn(1000, 64), torch.float32, "int8"), torch.randn(64, 64)
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        largest = weight.argmax(x)
    finally:
        torch.set_num_threads(before)
    assert largest is not None
    assert torch.equal(largest, kernels.argmax(weight(x)))
    assert len(set((largest // 200).tolist())) == 5  # some in each fifth


@pytest.mark.parametrize("quantization", ["int8", "int4"])
@pytest.mark.parametrize("shape", [(40, 24), (200, 896), (65, 33)], ids=str)
def test_products_are_near_the_exact_ones(quantization: Integers, shape: tuple[int, int]) -> None:
    torch.manual_seed(1)
    numbers, x = torch.randn(shape), torch.randn(9, shape[1])
    weight = QuantizedWeight(numbers, torch.float32, quantization)
    wanted = x @ numbers.T
    assert share(weight.slow_product(x) - wanted, wanted) < ERRORS[quantization]
    assert share(weight.plain() - numbers, numbers) < ERRORS[quantization]


@pytest.mark.parametrize("quantization", ["int8", "int4"])
@torch.inference_mode()
def test_noughts_stay_noughts_and_what_is_no_number_is_told(quantization: Integers) -> None:
    numbers = torch.randn(70, 40)
    numbers[3] = 0.0
    weight = QuantizedWeight(numbers, torch.float32, quantization)
    x = torch.randn(4, 40)
    x[1] = 0.0
    x[2, 7] = torch.inf
    x[3, 39] = torch.nan
    for product in (weight(x), weight.slow_product(x)):
        assert not product[0, 3]
        assert not product[1].any()
        assert product[:2].isfinite().all()
        assert product[2:].isnan().all()


@pytest.mark.parametrize("quantization", ["int8", "int4"])
def test_codes_of_numbers_that_they_can_hold_are_exact(quantization: Integers) -> None:
    whole = torch.randint(0, 16, (64, 96)).float()
    whole[:, ::8] = 0
    whole[:, 1::8] = 15
    numbers = whole - 8 if quantization == "int4" else whole * 127 / 15
    plain = QuantizedWeight(numbers, torch.float32, quantization).plain()
    torch.testing.assert_close(plain, numbers, atol=0.5 * (quantization == "int8") + 1e-6, rtol=0)


@needs_kernels
@pytest.mark.parametrize("quantization", ["int8", "int4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_a_rows_bits_do_not_depend_on_the_others(dtype: torch.dtype, quantization: Integers) -> None:
    weight = QuantizedWeight(torch.randn(130, 100), dtype, quantization)
    assert not weight.varies()
    bias, x = torch.randn(130).to(dtype), torch.randn(101, 100).to(dtype)
    together = weight(x, bias)
    assert torch.equal(together, torch.cat([weight(row[None], bias) for row in x]))
    for count in (2, 5, 7, 49):
        assert torch.equal(weight(x[:count], bias), together[:count])


@pytest.mark.parametrize("name", FAMILIES)
@torch.inference_mode()
def test_a_quantized_model_of_every_family_computes_nearly_the_same(name: str, tmp_path: Path) -> None:
    config = FAMILIES[name]
    if config.kind == "encoder":
        config = replace(config, head="none", labels=())
    save_model(random_model(config, dtype=torch.float32), tmp_path)
    plain, quantized = load_model(tmp_path), load_model(tmp_path, quantization="int8")
    quantized.pack()
    assert quantized.num_parameters == plain.num_parameters
    assert quantized.dtype is torch.float32
    assert all("heads." in n for n, p in quantized.named_parameters() if _is_product(n, p))
    ids = torch.randint(3, 90, (3, 9))
    wanted = outputs(plain, ids)
    assert 1e-4 < share(outputs(quantized, ids) - wanted, wanted) < 0.1


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float32])
@torch.inference_mode()
def test_weights_are_read_as_stored_and_computed_with_in_the_wanted_dtype(
    stored: torch.dtype, tmp_path: Path
) -> None:
    save_model(random_model(LLAMA, dtype=torch.float32, tie_embeddings=True), tmp_path, stored)
    model = load_model(tmp_path, torch.bfloat16, quantization="int4")
    model.pack()
    assert model.dtype is torch.bfloat16
    words = model.embeddings.words.weight
    assert words.dtype is stored  # looked up exactly, and a view of its file
    assert {p.dtype for n, p in model.named_parameters() if p is not words and not p.is_meta} == {
        torch.bfloat16
    }
    ids = torch.randint(3, 90, (2, 9))
    assert model.decode_padded(ids, torch.ones_like(ids, dtype=torch.bool)).dtype is torch.bfloat16
    assert outputs(model, ids).dtype is torch.float32  # scores of words are not rounded


def test_bytes_are_those_of_codes_and_scales(tmp_path: Path) -> None:
    config = replace(LLAMA, hidden_size=128, intermediate_size=256, head_dim=32, vocab_size=320)
    save_model(random_model(config, dtype=torch.float32), tmp_path)
    plain = load_model(tmp_path)
    rest = sum(p.nbytes for n, p in plain.named_parameters() if "norm" in n or "words" in n)
    products = (weight_bytes(plain) - rest) / 4
    eight = load_model(tmp_path, quantization="int8")
    assert products < weight_bytes(eight) - rest < 1.05 * products
    four, words = load_model(tmp_path, quantization="int4"), 320 * (128 + 4)
    stacks = products - 320 * 128
    assert weight_bytes(four) - rest == words + stacks * 5 / 8


@torch.inference_mode()
def test_a_masked_lm_scores_words_by_codes_of_its_table(tmp_path: Path) -> None:
    for tied in (True, False):
        model = random_model(BERT, dtype=torch.float32, head="masked-lm", tie_embeddings=tied)
        save_model(model, tmp_path / str(tied))
        plain = load_model(tmp_path / str(tied))
        quantized = load_model(tmp_path / str(tied), quantization="int4")
        quantized.pack()
        hidden = torch.randn(3, plain.config.hidden_size)
        wanted = plain.masked_lm(hidden)
        assert 1e-4 < share(quantized.masked_lm(hidden) - wanted, wanted) < ERRORS["int8"]


def _is_product(name: str, parameter: Tensor) -> bool:
    """Among what is left to read."""
    if parameter.is_meta or parameter.dim() < 2:
        return False
    tables = ("words", "positions", "types", "relative", "logit_bias")
    return not any(part in name for part in tables)


def outputs(model: Transformer, ids: Tensor) -> Tensor:
    mask = torch.ones_like(ids, dtype=torch.bool)
    if model.config.kind == "encoder":
        return model.encode_padded(ids, mask)
    memory = model.encode_padded(ids, mask) if model.encoder is not None else None
    hidden = model.decode_padded(ids, mask, memory, None if memory is None else mask)
    return model.logits(hidden.flatten(0, 1))
