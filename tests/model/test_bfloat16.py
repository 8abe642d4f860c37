"""bfloat16 products of our own: kernels against float32, the layout and back, bits whatever the batch."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from model.kernels import bfloat16 as kernels
from model.layers.bfloat16 import PaneledWeight
from model.layers.large_pages import LargePages
from model.loading import load_model, save_model
from tests.model.test_quantized import FAMILIES, outputs, share
from tests.tiny import random_model

pytestmark = pytest.mark.skipif(
    not kernels.can_multiply(), reason="no products of bfloat16 numbers on this processor, or no C++ compiler"
)
SHAPES = [(130, 101), (64, 2048), (7, 2051), (200, 1), (70, 9001)]
"""Panels that are not full, inputs of an odd number, and so many that they are summed in parts."""


@settings(max_examples=60, deadline=None)
@given(data=st.data())
@torch.inference_mode()
def test_products_are_those_of_float32_but_for_the_rounding_at_the_end(data: st.DataObject) -> None:
    draw = data.draw
    n, size, out = draw(st.integers(1, 300)), draw(st.integers(1, 300)), draw(st.integers(1, 200))
    size = draw(st.sampled_from([size, size + 1024]))
    torch.manual_seed(draw(st.integers(0, 2**20)))
    numbers = torch.randn(out, size).bfloat16()
    weight = PaneledWeight(numbers)
    x = torch.randn(n, size + 3).bfloat16()[:, :size]  # rows that hold more
    bias = torch.randn(out).bfloat16() if draw(st.booleans()) else None
    wanted = functional.linear(x.float(), numbers.float(), None if bias is None else bias.float())
    got = weight(x, bias)
    assert got.dtype is torch.bfloat16
    torch.testing.assert_close(got.float(), wanted, rtol=2**-8, atol=1e-6 * size)
    assert torch.equal(weight(x[:, None], bias)[:, 0], got)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_weight_is_laid_out_and_read_back(shape: tuple[int, int]) -> None:
    """Also one of rows that lie apart; what fills panels up is nought."""
    apart = torch.randn(shape[0], shape[1] + 5).bfloat16()[:, : shape[1]]
    weight = PaneledWeight(apart, LargePages())
    assert weight.shape == shape
    assert torch.equal(weight.plain(), apart)
    assert weight._panels.count_nonzero() == apart.count_nonzero()
    assert weight.nbytes >= apart.nbytes


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@torch.inference_mode()
def test_a_rows_bits_do_not_depend_on_the_others(shape: tuple[int, int]) -> None:
    weight = PaneledWeight(torch.randn(shape).bfloat16())
    assert not weight.varies()
    bias, x = torch.randn(shape[0]).bfloat16(), torch.randn(401, shape[1]).bfloat16()
    together = weight(x, bias)
    assert torch.equal(together, torch.cat([weight(row[None], bias) for row in x]))
    for count in (2, 5, 7, 13, 49, 193):
        assert torch.equal(weight(x[:count], bias), together[:count])


@torch.inference_mode()
def test_what_is_no_number_stays_in_its_row_and_tiny_numbers_are_noughts() -> None:
    weight = PaneledWeight(torch.randn(70, 41).bfloat16())
    x = torch.randn(9, 43).bfloat16()
    x[:, 41:] = torch.nan  # behind the rows, beside an odd last input
    x[1, 7], x[3, 40], x[4] = torch.inf, torch.nan, 1e-39
    product = weight(x[:, :41])
    assert product[1].isinf().all()
    assert product[3].isnan().all()
    assert not product[4].any()
    assert product[[0, 2, 5, 6, 7, 8]].isfinite().all()


@pytest.mark.parametrize("name", FAMILIES)
@torch.inference_mode()
def test_a_packed_model_of_every_family_is_as_near_to_float32_as_the_plain_one(
    name: str, tmp_path: Path
) -> None:
    config = FAMILIES[name]
    if config.kind == "encoder":
        config = replace(config, head="none", labels=())
    save_model(random_model(config, dtype=torch.float32), tmp_path)
    exact, plain, packed = (load_model(tmp_path, dtype) for dtype in (torch.float32, *[torch.bfloat16] * 2))
    packed.pack()
    assert any(isinstance(weight, PaneledWeight) for weight in packed.packed)
    ids = torch.randint(3, 90, (3, 9))
    wanted = outputs(exact, ids)
    assert share(outputs(packed, ids) - wanted, wanted) < 1.5 * share(outputs(plain, ids) - wanted, wanted)
