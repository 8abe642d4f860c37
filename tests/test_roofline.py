"""The arithmetic of `python -m benchmarks gpu`, by hand for a tiny model; its loop, with an engine on the CPU."""

from pathlib import Path

import pytest
import torch

from benchmarks import gpu
from benchmarks.measure import Options
from benchmarks.roofline import Cost, Limits, decode_cost, encode_cost, product_numbers
from model.loading import save_model
from tests.engine.test_engine import make_engine
from tests.tiny import BERT, LLAMA, T5, random_model

ATTENTION = 32 * 40 + 2 * 32 * 20 + 40 * 32  # queries, keys and values of two heads, output
MLP = 3 * 32 * 48


def test_work_takes_as_long_as_its_slower_half() -> None:
    limits = Limits(bytes_per_s=100.0, flops_per_s=1000.0)
    assert Cost(50, 100).seconds(limits) == 0.5
    assert Cost(5, 100).seconds(limits) == 0.1


def test_a_step_reads_all_weights_and_all_keys_once() -> None:
    model = random_model(LLAMA)
    assert model.decoder is not None
    numbers = 2 * (ATTENTION + MLP)
    assert product_numbers(model.decoder) == numbers
    cost = decode_cost(model, batch=3, context=10)
    kept = 3 * 10 * 2 * (2 * 2 * 10)  # sequences, tokens, layers, keys and values of two heads of ten
    assert cost.num_bytes == 2 * (numbers + 96 * 32) + 2 * kept
    assert cost.num_flops == 2 * 3 * (numbers + 96 * 32) + 3 * 10 * 2 * 4 * 40
    assert decode_cost(model, 3, 10, weight_bytes=1).num_bytes == cost.num_bytes - numbers - 96 * 32


def test_encoded_tokens_are_multiplied_with_cross_keys_once_and_read_by_each_step() -> None:
    model = random_model(T5)
    assert model.decoder is not None
    assert model.encoder is not None
    whole = 4 * 32 * 40
    assert product_numbers(model.decoder) == 3 * (whole + whole // 2 + MLP)
    more = decode_cost(model, 1, 5, num_source=7).num_bytes - decode_cost(model, 1, 5).num_bytes
    assert more == 7 * 3 * 2 * 40 * 2


def test_texts_of_an_encoder_cost_their_products_and_their_pairs() -> None:
    model = random_model(BERT)
    numbers = 2 * (4 * 32 * 32 + 2 * 32 * 48)
    cost = encode_cost(model, [3, 5])
    assert cost == Cost(2 * numbers, 2 * numbers * 8 + 4 * 32 * 2 * (9 + 25))


def test_the_trace_takes_at_least_its_steps_and_its_prompts() -> None:
    model, limits = random_model(LLAMA), Limits(1e6, 1e9)
    least = gpu.w2_seconds(model, [[5] * 8, [5] * 16], [16, 32], limits, 2)
    context = (16 * (8 + 8) + 32 * (16 + 16)) / 48
    step = decode_cost(model, 16, context).seconds(limits)
    assert least == pytest.approx(3 * step + encode_cost(model, [8, 16]).num_flops / 1e9)


def test_all_texts_get_their_tokens_some_at_a_time(tmp_path: Path) -> None:
    save_model(random_model(LLAMA), tmp_path)
    engine = make_engine({"m": tmp_path})
    assert gpu.answer_all(engine, [[5] * 4] * 5, [1, 2, 3, 4, 5], at_once=2) > 0
    assert not engine.has_work


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a device")
def test_without_a_device_it_says_so() -> None:
    with pytest.raises(RuntimeError, match="no CUDA device"):
        gpu.run(Options())
