"""The engine serves attention windows: the plain loop's tokens under chunks, mixtures and preemption."""

import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from app.engine.protocol import Encoded, EncodeRequest, Tokens
from model.greedy import generate_greedy
from model.loading import load_model, save_model
from tests.engine.test_engine import greedy, make_engine, num_free, numbers, random_ids
from tests.tiny import BERT, LLAMA, random_model

MISTRAL = replace(LLAMA, family="mistral", layer_windows=(5, 5))
GEMMA = replace(
    LLAMA,
    family="gemma3_text",
    num_decoder_layers=3,
    layer_windows=(7, 0, 7),
    layer_rope_thetas=(100.0, 10000.0, 100.0),
    rope_scaling={"rope_type": "linear", "factor": 4.0},
    norm_offset=1.0,
    sandwich_norm=True,
    qk_norm=True,
    activation="gelu_pytorch_tanh",
    embedding_scale=32**0.5,
    tie_embeddings=True,
)
MODERNBERT = replace(
    BERT,
    family="modernbert",
    num_encoder_layers=3,
    position="rotary",
    layer_windows=(0, 4, 4),
    layer_rope_thetas=(900.0, 90.0, 90.0),
    pre_norm=True,
    skip_first_norm=True,
    norm_bias=False,
    gated_mlp=True,
    attention_bias=False,
    output_bias=False,
    mlp_bias=False,
    type_vocab_size=0,
    head_transform=True,
    head_bias=False,
    classifier_pooling="mean",
)
QWEN = replace(LLAMA, family="qwen2", num_decoder_layers=3, layer_windows=(0, 6, 6), attention_bias=True)
CONFIGS = {"mistral": MISTRAL, "gemma": GEMMA, "modernbert": MODERNBERT, "qwen": QWEN}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("windows")
    for name, config in CONFIGS.items():
        save_model(random_model(config), root / name)
        loaded = load_model(root / name).config
        assert loaded.layer_windows == config.layer_windows
        assert loaded.layer_rope_thetas == config.layer_rope_thetas
    return {name: root / name for name in CONFIGS}


@pytest.mark.parametrize(("cache_bytes", "budget"), [(2_000_000, 64), (2_000_000, 6), (400_000, 64)])
def test_windowed_models_give_the_plain_loops_answers(
    folders: dict[str, Path], cache_bytes: int, budget: int
) -> None:
    """Ample, in small chunks of prompts longer than the window, and preempted."""
    source = random.Random(cache_bytes + budget)
    engine = make_engine(folders, kv_cache_memory=cache_bytes, token_budget=budget)
    all_free = num_free(engine)
    prompts: dict[int, tuple[str, list[int]]] = {}
    for i in range(24):
        model = ("mistral", "gemma", "modernbert", "qwen")[i % 4]
        prompts[i] = (model, random_ids(source, 60 if model == "modernbert" else 40))
        if model == "modernbert":
            engine.add(EncodeRequest(id=i, model=model, ids=prompts[i][1], output="class"))
        else:
            engine.add(greedy(i, model, prompts[i][1], 40, ignore_eos=True))
    tokens: dict[int, list[int]] = {}
    encoded: dict[int, Encoded] = {}
    preemptions = 0
    while engine.has_work:
        outputs = engine.step()
        preemptions += outputs.report.preemptions if outputs.report else 0
        for output in outputs.outputs:
            if isinstance(output, Tokens):
                tokens.setdefault(output.id, []).extend(output.token_ids)
            elif isinstance(output, Encoded):
                encoded[output.id] = output
    assert num_free(engine) == all_free
    assert (preemptions > 0) == (cache_bytes < 1_000_000)
    plain = {name: load_model(folder) for name, folder in folders.items()}
    for i, (name, ids) in prompts.items():
        loaded = plain[name]
        if name == "modernbert":
            mask = torch.ones(1, len(ids), dtype=torch.bool)
            hidden = loaded.encode_padded(torch.tensor([ids]), mask)
            wanted = loaded.classify(loaded.pool(hidden, mask))[0].float()
            assert numbers(encoded[i]) == pytest.approx(wanted.tolist(), abs=1e-5)
        else:
            assert tokens[i] == generate_greedy(loaded, [ids], 40, ignore_eos=True)[0]
