"""Every family in the engine with packed float32 weights: the answers are those of plain ones."""

import random
from pathlib import Path

import pytest
import torch

from app.engine.engine import Engine
from model.config import TransformerConfig
from model.greedy import generate_greedy
from model.loading import load_model, save_model
from tests.engine import test_decoder_families, test_encoder_decoders, test_encoders, test_engine_windows
from tests.engine.test_encoders import alone, answers, make_requests
from tests.engine.test_engine import drain, greedy, make_engine, random_ids
from tests.model.test_packing import needs_onednn
from tests.tiny import LLAMA, T5, random_model

WINDOWED = test_engine_windows.CONFIGS
ENCODERS = test_encoders.CONFIGS | {"modernbert": WINDOWED["modernbert"]}
GENERATING: dict[str, TransformerConfig] = {
    "llama": LLAMA,
    "t5": T5,
    "mistral": WINDOWED["mistral"],
    "gemma": WINDOWED["gemma"],
    **test_decoder_families.CONFIGS,
    **test_encoder_decoders.CONFIGS,
}

pytestmark = needs_onednn


def is_packed(engine: Engine) -> bool:
    return all(
        any(parameter.is_meta for parameter in runner.model.parameters())
        for runner in engine._runners.values()
    )


def test_generating_families_say_the_same(tmp_path: Path) -> None:
    source = random.Random(4)
    for name, config in GENERATING.items():
        save_model(random_model(config, dtype=torch.float32), tmp_path / name)
    folders = {name: tmp_path / name for name in GENERATING}
    engine = make_engine(folders, dtype="float32", kv_cache_memory=4_000_000)
    assert is_packed(engine)
    requests = [greedy(i, name, random_ids(source, 30), 16) for i, name in enumerate(list(GENERATING) * 2)]
    for request in requests:
        engine.add(request)
    tokens: dict[int, list[int]] = {}
    drain(engine, tokens, {})
    plain = {name: load_model(folder) for name, folder in folders.items()}
    for request in requests:
        wanted = generate_greedy(plain[request.model], [request.prompt_ids], 16)[0]
        assert tokens[request.id] == wanted, request.model


@pytest.mark.parametrize("name", ENCODERS)
def test_encoders_label_the_same(name: str, tmp_path: Path) -> None:
    model = random_model(ENCODERS[name], dtype=torch.float32, head="token-class")
    save_model(model, tmp_path)
    engine = make_engine({"m": tmp_path}, dtype="float32", token_budget=2048)
    assert is_packed(engine)
    requests = make_requests("token-class")
    got = answers(engine, requests)
    for request in requests:
        torch.testing.assert_close(got[request.id], alone(model, request), atol=1e-4, rtol=0)
