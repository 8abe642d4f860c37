"""A decoder's layers in one call: the bits of the modules called one by one, over the same cache."""

from dataclasses import dataclass, replace
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from app.engine.grouping import cut_tiles
from app.engine.kv_cache import PagedStore
from model.blocks import Wanted
from model.config import TransformerConfig
from model.kernels.bfloat16 import can_multiply
from model.layers.context import PaddedContext
from model.layers.grouped_context import AttentionGroup, GroupedContext
from model.layers.quantized import Quantization
from model.transformer import Transformer
from tests.engine.test_decoder_families import CONFIGS
from tests.model.test_kernels import needs_kernel
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


def served(config: TransformerConfig, quantization: Quantization | None, dtype: torch.dtype) -> Transformer:
    model = random_model(config, dtype=torch.float32).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith((".bias", "norm.weight")):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
            parameter.data += noise / 4
    model.to(dtype)
    if quantization is not None:
        model.quantize(quantization, dtype)
    with patch("model.layers.bfloat16._FEW_OUTPUTS", 0):  # products of our own for all
        model.pack()
    return model


@dataclass(frozen=True)
class Step:
    """For each sequence how many keys there are before, and how many rows are new; these are attended `tile` at once,
    or for 0 each by itself. `wanted` are the rows whose states are asked for, None for all."""

    sequences: list[tuple[int, int]]
    tile: int = 0
    wanted: list[int] | None = None
    threads: int = 1


def run(model: Transformer, step: Step) -> tuple[Tensor, Tensor]:
    """Hidden states of the rows, and the cache behind them."""
    config, draws = model.config, torch.Generator().manual_seed(len(step.sequences))
    lengths = [new for _, new in step.sequences]
    n, most = len(lengths), -(-max(before + new for before, new in step.sequences) // BLOCK)
    shape = (n * most, config.num_decoder_layers, BLOCK, config.num_kv_heads, 2 * config.head_dim)
    cache = torch.randn(shape, generator=draws).to(model.dtype).transpose(0, 1)
    owners = torch.tensor([i for i, new in enumerate(lengths) for _ in range(new)])
    tables = torch.randperm(n * most, generator=draws).view(n, most)[owners]
    last = torch.tensor([before + i for before, new in step.sequences for i in range(new)])
    tiles = torch.tensor(cut_tiles(lengths, step.tile)) if step.tile else None
    rows, keys = torch.arange(len(last)), torch.arange(most * BLOCK)
    group = AttentionGroup(rows[:, None], tables, None, last[:, None], keys, last + 1, tiles)
    store = PagedStore(list(cache), tables[rows, last // BLOCK], last % BLOCK)
    context = GroupedContext(last, [group], None, store, model.dtype)
    wanted = None if step.wanted is None else Wanted(torch.tensor(step.wanted))
    before = torch.get_num_threads()
    torch.set_num_threads(step.threads)
    try:
        ids = torch.randint(0, config.vocab_size, (len(last),), generator=draws)
        return model.decode(ids, context, wanted), cache
    finally:
        torch.set_num_threads(before)


def drawn_step(draw: st.DrawFn) -> Step:
    """Sequences that decode among pieces of prompts."""
    lengths = st.one_of(st.just(1), st.integers(1, 25))
    sequences = draw(st.lists(st.tuples(st.integers(0, 30), lengths), min_size=1, max_size=8))
    num_rows = sum(new for _, new in sequences)
    wanted = None
    if draw(st.booleans()):
        wanted = draw(st.lists(st.integers(0, num_rows - 1), min_size=1, unique=True).map(sorted))
    return Step(sequences, draw(st.sampled_from([0, 1, 3, 18])), wanted)


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
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16]))
    has_products = dtype == torch.bfloat16 and can_multiply()
    kinds: list[Quantization | None] = ["int8", "int4", None] if has_products else ["int8", "int4"]
    model = served(config, draw(st.sampled_from(kinds)), dtype)
    step = drawn_step(draw)
    assert model.decoder is not None
    assert model.decoder.fused is not None
    got = run(model, step)
    model.decoder.fused = None
    wanted = run(model, step)
    for mine, theirs in zip(got, wanted, strict=True):
        assert torch.equal(mine, theirs)


@needs_kernel
@torch.inference_mode()
def test_threads_that_wait_for_each_other_give_the_same_bits() -> None:
    model = served(replace(LLAMA, intermediate_size=300), "int8", torch.float32)
    step = Step([(0, 20), (3, 1), (8, 1), (30, 9), (2, 1)], wanted=[3, 19, 20, 21, 30])
    for tile in (0, 18):
        got, wanted = (run(model, replace(step, tile=tile, threads=threads)) for threads in (3, 1))
        assert torch.equal(got[0], wanted[0])
        assert torch.equal(got[1], wanted[1])


@needs_kernel
@pytest.mark.parametrize("config", [CONFIGS["gpt2"], T5], ids=lambda config: config.family)
def test_other_families_are_left_to_their_modules(config: TransformerConfig) -> None:
    model = served(config, "int8", torch.float32)
    assert model.decoder is not None
    assert model.decoder.fused is None


@needs_kernel
@torch.inference_mode()
def test_what_is_no_step_over_the_paged_cache_is_left_to_the_modules() -> None:
    model = served(LLAMA, "int8", torch.float32)
    assert model.decoder is not None
    asked: list[int] = []

    def count(x: Tensor, *_: object) -> None:
        asked.append(len(x))

    fused, model.decoder.fused = model.decoder.fused, count
    ids = torch.arange(10)
    mask = torch.ones(2, 5, dtype=torch.bool)
    model.decode(ids, PaddedContext(mask, causal=True))
    assert not asked
    run(model, Step([(1, 1), (2, 1)]))
    assert asked == [2]
    assert fused is not None
    assert random_model(LLAMA).decoder.fused is None  # type: ignore[union-attr]
