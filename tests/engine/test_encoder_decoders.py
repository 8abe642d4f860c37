"""The engine serves every kind of encoder-decoder: the plain loop's tokens, and labels by encode and decode."""

import random
from pathlib import Path
from typing import Any

import pytest
import torch

from app.engine.admission import RequestError
from app.engine.protocol import AdapterSpec, Encoded, EncodeRequest, GenerateRequest, Tokens
from app.engine.sampling_params import SamplingParams
from model.adapters import add_adapter, save_adapter
from model.config import TransformerConfig
from model.greedy import generate_greedy
from model.loading import load_model, save_model
from model.transformer import Transformer
from tests.engine.test_engine import drain, make_engine, num_free, numbers, random_ids
from tests.tiny import LLAMA, random_model

_LIKE_BART: dict[str, Any] = {
    "kind": "encoder-decoder",
    "head": "lm",
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_encoder_layers": 2,
    "num_decoder_layers": 2,
    "num_heads": 4,
    "num_kv_heads": 4,
    "head_dim": 8,
    "max_positions": 128,
    "norm": "layernorm",
    "norm_eps": 1e-5,
    "attention_bias": True,
    "output_bias": True,
    "mlp_bias": True,
    "attention_scale": 8**-0.5,
    "initializer_range": 0.3,
    "eos_token_ids": (2,),
    "decoder_start_token_id": 2,
}
LEARNED: dict[str, Any] = {"position": "learned", "position_offset": 2, "embedding_norm": True}
BART = TransformerConfig(
    family="bart", pre_norm=False, activation="gelu", logit_bias=True, pad_token_id=1, **LEARNED, **_LIKE_BART
)
CONFIGS = {
    "bart": BART,
    "mbart": TransformerConfig(
        family="mbart",
        pre_norm=True,
        activation="gelu",
        logit_bias=True,
        embedding_scale=32**0.5,
        pad_token_id=1,
        **LEARNED,
        **_LIKE_BART,
    ),
    "marian": TransformerConfig(
        family="marian",
        position="sinusoidal",
        pre_norm=False,
        activation="silu",
        logit_bias=True,
        embedding_scale=32**0.5,
        pad_token_id=95,
        **_LIKE_BART | {"decoder_start_token_id": 95, "eos_token_ids": (0,)},
    ),
    "m2m_100": TransformerConfig(
        family="m2m_100",
        position="sinusoidal",
        position_offset=2,
        frequency_shift=1,
        pre_norm=True,
        activation="relu",
        embedding_scale=32**0.5,
        pad_token_id=1,
        **_LIKE_BART | {"eos_token_ids": (2, 9)},
    ),
}


def noisy(config: TransformerConfig) -> Transformer:
    """Random, its norms and biases too."""
    model = random_model(config)
    for parameter in model.parameters():
        parameter.data += torch.randn_like(parameter) * 0.1
    return model


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    for name, config in CONFIGS.items():
        save_model(noisy(config), root / name)
    return {name: root / name for name in CONFIGS}


@pytest.mark.parametrize(("cache_bytes", "budget"), [(2_000_000, 64), (160_000, 24)])
def test_the_plain_loops_tokens_under_any_mixture(
    folders: dict[str, Path], cache_bytes: int, budget: int
) -> None:
    """Forced first tokens, suppressed tokens and several end tokens among them; the small cache preempts."""
    source = random.Random(3)
    engine = make_engine(folders, kv_cache_memory=cache_bytes, token_budget=budget)
    all_free = num_free(engine)
    requests = []
    for i in range(32):
        params = SamplingParams(
            max_tokens=source.randint(1, 50),
            seed=0,
            forced_bos_token=source.choice([None, 7, 11]),
            suppress_token_ids=source.choice([(), (95, 4, 30)]),
        )
        model = source.choice(list(CONFIGS))
        requests.append(GenerateRequest(id=i, model=model, prompt_ids=random_ids(source, 40), params=params))
        engine.add(requests[-1])
    tokens: dict[int, list[int]] = {}
    reasons: dict[int, str] = {}
    preemptions = 0
    while engine.has_work:
        outputs = engine.step()
        preemptions += outputs.report.preemptions if outputs.report else 0
        for output in outputs.outputs:
            assert isinstance(output, Tokens)
            tokens.setdefault(output.id, []).extend(output.token_ids)
            if output.finish_reason is not None:
                reasons[output.id] = output.finish_reason
    assert num_free(engine) == all_free
    assert (preemptions > 0) == (cache_bytes < 1_000_000)
    plain = {name: load_model(folder) for name, folder in folders.items()}
    for request in requests:
        params = request.params
        [expected] = generate_greedy(
            plain[request.model],
            [request.prompt_ids],
            params.max_tokens,
            forced_bos_token=params.forced_bos_token,
            suppressed=params.suppress_token_ids,
        )
        assert tokens[request.id] == expected, request
        assert reasons[request.id] == ("length" if len(expected) == params.max_tokens else "stop")
        assert not set(expected) & set(params.suppress_token_ids)


def test_bart_classifies_in_one_step_with_and_without_an_adapter(tmp_path: Path) -> None:
    config = TransformerConfig(
        **{**vars(BART), "head": "sequence-class", "labels": ("no", "maybe", "yes"), "logit_bias": False}
    )
    save_model(noisy(config), tmp_path / "base")
    adapted = load_model(tmp_path / "base")
    labels = TransformerConfig(**{**vars(config), "labels": ("in", "out")})
    for parameter in add_adapter(adapted, "extra", labels, rank=4, alpha=8):
        parameter.data.normal_(std=0.3)
    save_adapter(adapted, "extra", labels, tmp_path / "extra", "base")
    folders = {"base": tmp_path / "base"}
    engine = make_engine(folders, [AdapterSpec("extra", "base", str(tmp_path / "extra"))])
    all_free = num_free(engine)
    texts = [[5, 6, 2], [7, 2, 8, 9, 10, 2], [2], [30, 31, 2, 40], [50] * 20 + [2], [3, 2]]
    for i, ids in enumerate(texts):
        model = "extra" if i % 2 else "base"
        engine.add(EncodeRequest(id=i, model=model, ids=ids, output="class"))
    encoded: dict[int, Encoded] = {}
    drain(engine, {}, encoded)
    assert num_free(engine) == all_free
    plain = load_model(tmp_path / "base")
    for i, ids in enumerate(texts):
        if i % 2 == 0:
            state = plain.echo_padded(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.bool))
            wanted = plain.classify(state)[0].tolist()
            assert numbers(encoded[i]) == pytest.approx(wanted, abs=1e-5)
        else:
            alone = make_engine(folders, [AdapterSpec("extra", "base", str(tmp_path / "extra"))])
            alone.add(EncodeRequest(id=i, model="extra", ids=ids, output="class"))
            again: dict[int, Encoded] = {}
            drain(alone, {}, again)
            assert numbers(encoded[i]) == pytest.approx(numbers(again[i]), abs=1e-6)
            assert len(numbers(encoded[i])) == 2
    with pytest.raises(RequestError, match="must hold an end token"):
        engine.add(EncodeRequest(id=9, model="base", ids=[5, 6], output="class"))
    with pytest.raises(RequestError, match="no output 'embedding'"):
        engine.add(EncodeRequest(id=9, model="base", ids=[5, 2], output="embedding"))
    with pytest.raises(RequestError, match="generates nothing"):
        engine.add(GenerateRequest(id=9, model="base", prompt_ids=[5, 2], params=SamplingParams()))


def test_a_decoder_is_forced_to_nothing_and_foreign_tokens_are_refused(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    save_model(random_model(LLAMA), tmp_path)
    engine = make_engine({"llama": tmp_path, "bart": folders["bart"]})
    for model, token, message in (("llama", 7, "for encoder-decoders"), ("bart", 96, "not below 96")):
        params = SamplingParams(forced_bos_token=token)
        with pytest.raises(RequestError, match=message):
            engine.add(GenerateRequest(id=1, model=model, prompt_ids=[5], params=params))
    assert not engine.has_work
