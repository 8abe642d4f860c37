"""All of it on a real device, `pytest -m gpu`: the CPU's answers, with recorded steps and without, and in 8 bits.

Skipped where there is none. Beside these, `tests/model/test_paged_attention.py` compares the kernel there.
"""

import itertools
import random
from pathlib import Path

import pytest
import torch
from torch.nn import functional

from app.engine.build import build_engine
from app.engine.engine import Engine
from app.engine.protocol import Encoded, EncodeRequest, ModelSpec, Quantization, WorkerConfig
from model.config import TransformerConfig
from model.greedy import generate_greedy
from model.layers.eight_bits import FLOAT8, INT8, EightBitWeight, Numbers
from model.loading import load_model, save_model
from tests.engine.test_engine import drain, greedy, numbers, random_ids
from tests.engine.test_packed_families import ENCODERS, GENERATING
from tests.tiny import LLAMA, T5, random_model

pytestmark = pytest.mark.gpu


def make_engine(
    folder: Path, has_graphs: bool = True, dtype: str = "float32", quantization: Quantization = "none"
) -> Engine:
    return build_engine(
        WorkerConfig(
            models=[ModelSpec("m", str(folder), quantization=quantization)],
            device="cuda",
            dtype=dtype,
            kv_cache_memory=8_000_000,
            token_budget=64,
            max_num_seqs=32,
            cuda_graphs=has_graphs,
        ),
        itertools.count(0.0, 0.001).__next__,
    )


@pytest.mark.parametrize("has_graphs", [True, False])
@pytest.mark.parametrize("name", GENERATING)
def test_generating_families_say_what_a_cpu_says(name: str, has_graphs: bool, tmp_path: Path) -> None:
    source = random.Random(5)
    save_model(random_model(GENERATING[name], dtype=torch.float32), tmp_path)
    requests = [greedy(i, "m", random_ids(source, 40), source.randint(8, 24)) for i in range(12)]
    engine = make_engine(tmp_path, has_graphs)
    for request in requests:
        engine.add(request)
    tokens: dict[int, list[int]] = {}
    drain(engine, tokens, {})
    plain = load_model(tmp_path)
    for request in requests:
        wanted = generate_greedy(plain, [request.prompt_ids], request.params.max_tokens)[0]
        assert tokens.get(request.id, []) == wanted, request


@pytest.mark.parametrize("config", [LLAMA, T5], ids=lambda config: config.family)
def test_keys_are_read_in_place_and_steps_are_recorded(config: TransformerConfig, tmp_path: Path) -> None:
    """Otherwise the comparison above compares what is not meant to be."""
    save_model(random_model(config, dtype=torch.float32), tmp_path)
    runner = make_engine(tmp_path)._runners["m"]
    assert runner.grouping.rows_a_tile
    assert runner._graphs is not None
    assert sorted(runner._graphs._recorded) == [1, 2, 4, 8, 16, 32]
    assert make_engine(tmp_path, has_graphs=False)._runners["m"]._graphs is None


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_come_to_a_cpus_states(name: str, tmp_path: Path) -> None:
    source = random.Random(6)
    save_model(random_model(ENCODERS[name], dtype=torch.float32), tmp_path)
    texts = [random_ids(source, 40) for _ in range(9)]
    engine = make_engine(tmp_path)
    for number, ids in enumerate(texts):
        engine.add(EncodeRequest(id=number, model="m", ids=ids, output="embedding"))
    encoded: dict[int, Encoded] = {}
    drain(engine, {}, encoded)
    plain = load_model(tmp_path)
    with torch.inference_mode():
        for number, ids in enumerate(texts):
            hidden = plain.encode_padded(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.bool))
            wanted = functional.normalize(hidden[0, 0], dim=0)
            got = functional.normalize(torch.tensor(numbers(encoded[number])).flatten(), dim=0)
            mean = functional.normalize(hidden[0].mean(0), dim=0)
            assert min((got - one).norm() for one in (wanted, mean)) < 1e-3


@torch.inference_mode()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("rows", [1, 3, 16, 200])
@pytest.mark.parametrize("numbers", [FLOAT8, INT8], ids=["fp8", "int8"])
def test_products_of_8_bit_numbers_are_near_plain_ones(
    numbers: Numbers, dtype: torch.dtype, rows: int
) -> None:
    torch.manual_seed(0)
    weight = torch.randn(512, 256, device="cuda").to(dtype)
    x, bias = torch.randn(rows, 256, device="cuda").to(dtype), torch.randn(512, device="cuda").to(dtype)
    got = EightBitWeight(weight, dtype, numbers)(x, bias)
    wanted = functional.linear(x.float(), weight.float(), bias.float())
    assert got.dtype == dtype
    assert (got.float() - wanted).norm() < 0.08 * wanted.norm()


@pytest.mark.parametrize("numbers", [FLOAT8, INT8], ids=["fp8", "int8"])
def test_a_device_of_this_kind_multiplies_8_bit_numbers_itself(numbers: Numbers) -> None:
    if torch.cuda.get_device_capability() < numbers.capability:
        pytest.skip(f"it came with compute capability {numbers.capability}")
    assert EightBitWeight(torch.randn(64, 64, device="cuda"), torch.bfloat16, numbers)._is_multiplied


@pytest.mark.parametrize("made", ["fp8", "int8"])
@pytest.mark.parametrize("config", [LLAMA, T5], ids=lambda config: config.family)
def test_a_model_in_8_bits_says_much_of_what_it_says_without(
    config: TransformerConfig, made: Quantization, tmp_path: Path
) -> None:
    save_model(random_model(config, dtype=torch.float32), tmp_path)
    source = random.Random(7)
    prompts = [random_ids(source, 40) for _ in range(30)]
    first = []
    kinds: tuple[Quantization, ...] = ("none", made)
    for quantization in kinds:
        engine = make_engine(tmp_path, dtype="bfloat16", quantization=quantization)
        for number, ids in enumerate(prompts):
            engine.add(greedy(number, "m", ids, 1, ignore_eos=True))
        tokens: dict[int, list[int]] = {}
        drain(engine, tokens, {})
        first.append([tokens[number][0] for number in range(len(prompts))])
    assert sum(a == b for a, b in zip(*first, strict=True)) > len(prompts) // 2
