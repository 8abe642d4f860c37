"""Decoder-only families in the engine: learned positions, biases, head norms, scaled rotary angles."""

import random
from dataclasses import replace
from pathlib import Path

import pytest

from app.engine.admission import RequestError
from model.config import TransformerConfig
from model.greedy import generate_greedy
from model.loading import load_model, save_model
from tests.engine.test_engine import drain, greedy, make_engine, random_ids
from tests.tiny import LLAMA, random_model

YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
CONFIGS: dict[str, TransformerConfig] = {
    "gpt2": replace(
        LLAMA,
        family="gpt2",
        num_kv_heads=4,
        head_dim=8,
        attention_scale=8**-0.5,
        position="learned",
        norm="layernorm",
        activation="gelu_new",
        gated_mlp=False,
        attention_bias=True,
        output_bias=True,
        mlp_bias=True,
        tie_embeddings=True,
    ),
    "qwen2": replace(LLAMA, family="qwen2", attention_bias=True, eos_token_ids=(2, 5, 7, 11, 13)),
    "qwen3": replace(LLAMA, family="qwen3", qk_norm=True),
    "yarn": replace(LLAMA, rope_scaling=YARN),
    "llama3": replace(LLAMA, rope_scaling=LLAMA3),
    "linear": replace(LLAMA, rope_scaling={"rope_type": "linear", "factor": 3.0}),
    "dynamic": replace(LLAMA, rope_scaling={"rope_type": "dynamic", "factor": 2.0}, max_positions=70),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("decoders")
    for seed, (name, config) in enumerate(CONFIGS.items()):
        model = random_model(config, seed)
        for key, parameter in model.named_parameters():
            if key.endswith((".bias", "_norm.weight")):
                parameter.data += parameter.data.new_tensor(0.1) * random.Random(key).uniform(-1, 3)
        save_model(model, root / name)
    return {name: root / name for name in CONFIGS}


@pytest.mark.parametrize(("cache_bytes", "budget"), [(4_000_000, 16), (250_000, 64)])
def test_all_at_once_give_the_plain_loops_tokens(
    folders: dict[str, Path], cache_bytes: int, budget: int
) -> None:
    """In chunks of a small budget, and in a cache so small that sequences are preempted."""
    source = random.Random(budget)
    engine = make_engine(folders, kv_cache_memory=cache_bytes, token_budget=budget)
    requests = [
        greedy(i, name, random_ids(source, 40), source.randint(10, 30))
        for i, name in enumerate(list(CONFIGS) * 3)
    ]
    for request in requests:
        engine.add(request)
    tokens: dict[int, list[int]] = {}
    drain(engine, tokens, {})
    plain = {name: load_model(folder) for name, folder in folders.items()}
    for request in requests:
        model = plain[request.model]
        wanted = generate_greedy(model, [request.prompt_ids], request.params.max_tokens)[0]
        assert tokens.get(request.id, []) == wanted, request


def test_a_model_with_dynamic_scaling_is_served_to_its_trained_length(folders: dict[str, Path]) -> None:
    engine = make_engine({"dynamic": folders["dynamic"]})
    engine.add(greedy(1, "dynamic", [5] * 60, 100, ignore_eos=True))
    tokens: dict[int, list[int]] = {}
    assert drain(engine, tokens, {}) == {1: "length"}
    assert len(tokens[1]) == 10
    with pytest.raises(RequestError, match="71 prompt tokens, but the model takes 1 to 70"):
        engine.add(greedy(2, "dynamic", [5] * 71, 1))
