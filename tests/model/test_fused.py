"""A decoder's layers in one call: the bits of the modules called one by one, over the same cache."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from app.engine.kv_cache import PagedStore
from model.config import TransformerConfig
from model.fused import MOST_ROWS
from model.layers.context import PaddedContext
from model.layers.grouped_context import AttentionGroup, GroupedContext
from model.layers.quantized import Quantization
from model.transformer import Transformer
from tests.engine.test_decoder_families import CONFIGS
from tests.model.test_kernels import DTYPES, needs_kernel
from tests.tiny import LLAMA, T5, random_model

BLOCK = 4
GEMMA = replace(
    LLAMA,
    family="gemma3_text",
    activation="gelu_pytorch_tanh",
    qk_norm=True,
    sandwich_norm=True,
    norm_offset=1.0,
    layer_windows=(5, 0),
    layer_rope_thetas=(100.0, 10000.0),
)


def quantized(config: TransformerConfig, quantization: Quantization, dtype: torch.dtype) -> Transformer:
    model = random_model(config, dtype=torch.float32).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith((".bias", "norm.weight")):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
            parameter.data += noise / 4
    model.to(dtype).quantize(quantization, dtype)
    model.pack()
    return model


def decode(
    model: Transformer, num_keys: list[int], threads: int, kept: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Hidden states of a row for each of the sequences, and the cache behind it, `kept` as the rows are or so."""
    config, n, draws = model.config, len(num_keys), torch.Generator().manual_seed(sum(num_keys))
    most = -(-max(num_keys) // BLOCK)
    tables = torch.randperm(n * most, generator=draws).view(n, most)
    shape = (n * most, config.num_decoder_layers, BLOCK, config.num_kv_heads, 2 * config.head_dim)
    cache = torch.randn(shape, generator=draws).to(kept or model.dtype).transpose(0, 1)
    counts = torch.tensor(num_keys)
    last = counts - 1
    keys = torch.arange(most * BLOCK)
    group = AttentionGroup(torch.arange(n)[:, None], tables, None, last[:, None], keys, counts)
    store = PagedStore(list(cache), tables[torch.arange(n), last // BLOCK], last % BLOCK)
    context = GroupedContext(last, [group], None, store, model.dtype)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        ids = torch.randint(0, config.vocab_size, (n,), generator=draws)
        return model.decode(ids, context), cache
    finally:
        torch.set_num_threads(before)


@needs_kernel
@settings(max_examples=40, deadline=None)
@given(data=st.data())
@torch.inference_mode()
def test_one_call_gives_the_bits_of_the_modules_called_one_by_one(data: st.DataObject) -> None:
    draw = data.draw
    family = draw(st.sampled_from([LLAMA, CONFIGS["qwen2"], CONFIGS["qwen3"], CONFIGS["llama3"], GEMMA]))
    kv, d = draw(st.integers(1, 3)), draw(st.sampled_from([2, 10, 32, 64]))
    config = replace(
        family,
        hidden_size=draw(st.integers(1, 100)),
        intermediate_size=draw(st.integers(1, 150)),
        num_kv_heads=kv,
        num_heads=kv * draw(st.integers(1, 3)),
        head_dim=d,
        output_bias=draw(st.booleans()),
        mlp_bias=draw(st.booleans()),
    )
    dtype, kept = draw(st.sampled_from(DTYPES))
    model = quantized(config, draw(st.sampled_from(["int8", "int4"])), dtype)
    num_keys = draw(st.lists(st.integers(1, 30), min_size=1, max_size=MOST_ROWS))
    assert model.decoder is not None
    assert model.decoder.fused is not None
    got = decode(model, num_keys, 1, kept)
    model.decoder.fused = None
    wanted = decode(model, num_keys, 1, kept)
    for mine, theirs in zip(got, wanted, strict=True):
        assert torch.equal(mine, theirs)


@needs_kernel
@torch.inference_mode()
def test_threads_that_wait_for_each_other_give_the_same_bits() -> None:
    model = quantized(replace(LLAMA, intermediate_size=300), "int8", torch.float32)
    for num_keys in ([9], [3, 8, 1, 30, 2]):
        got, wanted = (decode(model, num_keys, threads) for threads in (3, 1))
        assert torch.equal(got[0], wanted[0])
        assert torch.equal(got[1], wanted[1])


@needs_kernel
@pytest.mark.parametrize("config", [CONFIGS["gpt2"], T5], ids=lambda config: config.family)
def test_other_families_are_left_to_their_modules(config: TransformerConfig) -> None:
    model = quantized(config, "int8", torch.float32)
    assert model.decoder is not None
    assert model.decoder.fused is None


@needs_kernel
@torch.inference_mode()
def test_what_is_no_step_of_few_rows_is_left_to_the_modules() -> None:
    model = quantized(LLAMA, "int8", torch.float32)
    assert model.decoder is not None
    asked: list[int] = []

    def count(x: Tensor, *_: object) -> None:
        asked.append(len(x))

    fused, model.decoder.fused = model.decoder.fused, count
    ids = torch.arange(10)
    mask = torch.ones(2, 5, dtype=torch.bool)
    model.decode(ids, PaddedContext(mask, causal=True))
    assert not asked
    decode(model, [1, 2], threads=1)
    assert asked == [2]
    assert fused is not None
    assert random_model(LLAMA).decoder.fused is None  # type: ignore[union-attr]
