"""Weights packed for oneDNN compute what plain ones do, and take their place in memory."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.config import TransformerConfig
from model.layers.linear import Linear, LowRank, Together
from model.layers.packed import PackedWeight, can_pack
from model.loading import load_model, save_model
from model.transformer import Transformer
from tests.tiny import BERT, LLAMA, T5, random_model

needs_onednn = pytest.mark.skipif(
    not can_pack(torch.empty(1)), reason="this build of torch has no oneDNN to pack weights for"
)


def linear(out_features: int, bias: bool = True, dtype: torch.dtype = torch.float32) -> Linear:
    torch.manual_seed(out_features)
    layer = Linear(24, out_features, bias).to(dtype).requires_grad_(False)
    layer.weight.normal_()
    if layer.bias is not None:
        layer.bias.normal_()
    return layer


@needs_onednn
@pytest.mark.parametrize("num_rows", [1, 3, 4, 17])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.06)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_packed_linear_gives_what_the_plain_one_gives(
    num_rows: int, dtype: torch.dtype, tolerance: float, bias: bool
) -> None:
    if not can_pack(torch.empty(1, dtype=dtype)):
        pytest.skip("this processor has no bfloat16 products")
    layer = linear(40, bias, dtype)
    x = torch.randn(num_rows, 24).to(dtype)
    plain = layer(x)
    layer.pack()
    assert layer.weight.is_meta  # nothing is held twice
    torch.testing.assert_close(layer(x), plain, atol=tolerance, rtol=tolerance)


@needs_onednn
@torch.inference_mode()
def test_linears_together_give_what_each_gives_and_adapters_are_added_to_their_rows_alone() -> None:
    layers = [linear(40), linear(8, bias=False), linear(8)]
    together = Together(*layers)
    for layer in layers:
        layer.adapters["mine"] = _low_rank(layer)
    x = torch.randn(6, 24)
    for spans in ((), (("mine", 2, 5),), (("mine", 0, 6),), (("other", 0, 6),)):
        plain = [layer(x, spans) for layer in layers]
        joined = torch.cat(plain, dim=-1)
        torch.testing.assert_close(together.joined(x, spans), joined)
        packed = Together(*(_copy(layer) for layer in layers))
        packed.pack()
        for got, wanted in zip(packed(x, spans), plain, strict=True):
            torch.testing.assert_close(got, wanted, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(packed.joined(x, spans), joined, atol=1e-5, rtol=1e-5)


@needs_onednn
@pytest.mark.parametrize("config", [BERT, T5, LLAMA], ids=lambda c: c.family)
@torch.inference_mode()
def test_a_packed_model_computes_the_same(config: TransformerConfig, tmp_path: Path) -> None:
    save_model(random_model(config, dtype=torch.float32), tmp_path)
    plain, packed = load_model(tmp_path), load_model(tmp_path)
    packed.pack()
    assert packed.num_parameters == plain.num_parameters
    ids = torch.randint(3, 90, (3, 9))
    mask = torch.ones_like(ids, dtype=torch.bool)
    torch.testing.assert_close(_hidden(packed, ids, mask), _hidden(plain, ids, mask), atol=1e-4, rtol=1e-4)


@needs_onednn
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(40, 24), (24, 1600), (3, 37)], ids=str)
def test_a_rows_bits_do_not_depend_on_the_others(shape: tuple[int, int], dtype: torch.dtype) -> None:
    if not can_pack(torch.empty(1, dtype=dtype)):
        pytest.skip("this processor has no bfloat16 products")
    weight = PackedWeight(torch.randn(shape).to(dtype))
    assert not weight.varies()
    bias, x = torch.randn(shape[0]).to(dtype), torch.randn(2, 9, shape[1]).to(dtype)
    wanted = torch.stack([torch.cat([weight(row[None], bias) for row in part]) for part in x])
    assert torch.equal(weight(x, bias), wanted)


@needs_onednn
def test_a_product_whose_bits_depend_on_the_number_of_rows_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    weight = PackedWeight(torch.randn(24, 40))
    assert not weight.varies()
    product = PackedWeight.__call__
    monkeypatch.setattr(
        PackedWeight, "__call__", lambda self, x: product(self, x) * (1 + 1e-6 * (len(x) > 32))
    )
    assert weight.varies()


@needs_onednn
@torch.inference_mode()
def test_a_packed_masked_lm_scores_words_by_its_table(tmp_path: Path) -> None:
    for tied in (True, False):
        model = random_model(BERT, dtype=torch.float32, head="masked-lm", tie_embeddings=tied)
        save_model(model, tmp_path / str(tied))
        plain, packed = load_model(tmp_path / str(tied)), load_model(tmp_path / str(tied))
        packed.pack()
        hidden = torch.randn(3, plain.config.hidden_size)
        torch.testing.assert_close(packed.masked_lm(hidden), plain.masked_lm(hidden), atol=1e-4, rtol=1e-4)


def test_what_cannot_be_packed_stays_as_it_is() -> None:
    model = random_model(LLAMA, dtype=torch.float64)
    model.pack()
    assert not any(parameter.is_meta for parameter in model.parameters())


def _hidden(model: Transformer, ids: Tensor, mask: Tensor) -> Tensor:
    if model.config.kind == "encoder":
        return model.encode_padded(ids, mask)
    memory = model.encode_padded(ids, mask) if model.encoder is not None else None
    hidden = model.decode_padded(ids, mask, memory, None if memory is None else mask)
    return model.logits(hidden.flatten(0, 1))


def _low_rank(layer: Linear) -> LowRank:
    low_rank = LowRank(layer.in_features, layer.out_features, 2, 1.0, 0.0)
    torch.nn.init.normal_(low_rank.up)
    return low_rank.eval()


def _copy(layer: Linear) -> Linear:
    copy = Linear(layer.in_features, layer.out_features, layer.bias is not None)
    copy.load_state_dict({k: v.clone() for k, v in layer.state_dict().items() if "adapters" not in k})
    copy.adapters = layer.adapters
    return copy.requires_grad_(False)
