"""Prompts in chunks and beginnings from the cache: the plain loop's tokens, whatever was computed when and by whom."""

import random
from pathlib import Path

import pytest

from app.engine import kv_cache
from app.engine.protocol import Encoded, EncodeRequest, GenerateRequest, Tokens
from app.engine.sampling_params import SamplingParams
from model.config import TransformerConfig
from model.greedy import generate_greedy
from model.loading import load_model, save_model
from tests.engine.test_encoder_decoders import BART, noisy
from tests.engine.test_engine import collect, drain, greedy, make_engine, num_free, numbers, random_ids
from tests.engine.test_scheduler import set_budget
from tests.tiny import BERT, LLAMA, T5, random_model

CONFIGS = {"llama": LLAMA, "t5": T5, "bert": BERT}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("checkpoints")
    for name, config in CONFIGS.items():
        save_model(random_model(config), root / name)
    return {name: root / name for name in CONFIGS}


def random_requests(source: random.Random) -> list[GenerateRequest | EncodeRequest]:
    """Few beginnings and few sources, so that many are met again."""
    beginnings = [random_ids(source, 1) * 7 + [source.randrange(3, 96) for _ in range(60)] for _ in range(2)]
    sources = [random_ids(source, 40) for _ in range(3)]
    requests: list[GenerateRequest | EncodeRequest] = []
    for i in range(30):
        model = source.choice(["llama", "llama", "t5", "bert"])
        count = source.randint(20, 50)
        if model == "bert":
            ids = random_ids(source, 60)
            requests.append(EncodeRequest(id=i, model=model, ids=ids, output="class"))
        elif model == "t5":
            requests.append(greedy(i, model, source.choice(sources), count, ignore_eos=True))
        else:
            start = source.choice(beginnings)[: source.randint(30, 67)]
            requests.append(greedy(i, model, start + random_ids(source, 5), count, ignore_eos=True))
    return requests


@pytest.mark.parametrize(
    ("seed", "block_size", "cache_bytes"),
    [(0, 16, 2_000_000), (1, 1, 2_000_000), (2, 5, 180_000), (3, 16, 260_000), (4, 2, 180_000)],
)
def test_any_chunks_block_sizes_and_hits_give_the_plain_loops_tokens(
    folders: dict[str, Path],
    seed: int,
    block_size: int,
    cache_bytes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Three families at once; each step has a budget of its own, from one token to whole prompts. The small caches
    preempt. `block_size` is the encoder-decoder's; the decoder's is three times as large."""
    monkeypatch.setattr(kv_cache, "MIN_BLOCK_SIZE", block_size)
    source = random.Random(seed)
    engine = make_engine(folders, kv_cache_memory=cache_bytes)
    all_free = num_free(engine)
    requests = random_requests(source)
    waiting = list(requests)
    tokens: dict[int, list[int]] = {}
    encoded: dict[int, Encoded] = {}
    cached = dict.fromkeys(range(len(requests)), 0)
    preemptions = 0
    while waiting or engine.has_work:
        for _ in range(source.choice([0, 0, 1, 4])):
            if waiting:
                engine.add(waiting.pop(0))
        set_budget(engine._scheduler, source.choice([1, 3, source.randint(1, 70), 500]))
        step = engine.step()
        preemptions += step.report.preemptions if step.report else 0
        for output in step.outputs:
            if isinstance(output, Tokens):
                tokens.setdefault(output.id, []).extend(output.token_ids)
                cached[output.id] += output.cached_tokens
            elif isinstance(output, Encoded):
                encoded[output.id] = output
    assert num_free(engine) == all_free
    assert (preemptions > 0) == (cache_bytes < 1_000_000)
    hits = {request.model for request in requests if cached[request.id]}
    assert hits == {"llama", "t5"}
    plain = {name: load_model(folder) for name, folder in folders.items()}
    for request in requests:
        if isinstance(request, GenerateRequest):
            count = request.params.max_tokens
            [expected] = generate_greedy(plain[request.model], [request.prompt_ids], count, ignore_eos=True)
            assert tokens[request.id] == expected, request
            assert 0 <= cached[request.id] <= len(request.prompt_ids)
        else:
            alone: dict[int, Encoded] = {}
            engine.add(request)
            drain(engine, {}, alone)
            assert numbers(encoded[request.id]) == pytest.approx(numbers(alone[request.id]), abs=1e-6)


def test_a_text_classified_again_is_neither_encoded_nor_computed_again(tmp_path: Path) -> None:
    config = TransformerConfig(
        **{**vars(BART), "head": "sequence-class", "labels": ("no", "maybe", "yes"), "logit_bias": False}
    )
    save_model(noisy(config), tmp_path)
    engine = make_engine({"base": tmp_path}, token_budget=30)
    ids = [*range(10, 60), 2]
    found: list[tuple[int, int]] = []
    encoded: dict[int, Encoded] = {}
    for i in range(2):
        engine.add(EncodeRequest(id=i, model="base", ids=ids, output="class"))
        num_steps = 0
        while engine.has_work:
            collect(engine, {}, encoded, {})
            num_steps += 1
        found.append((num_steps, encoded[i].cached_tokens))
    # First the source and one token, then 30, then 20; the second time what is in the last block.
    assert found == [(3, 0), (1, 51)]
    assert numbers(encoded[1]) == pytest.approx(numbers(encoded[0]), abs=1e-6)


def test_sampled_tokens_do_not_depend_on_chunks_and_hits(folders: dict[str, Path]) -> None:
    params = SamplingParams(max_tokens=20, temperature=1.0, seed=3, ignore_eos=True, repetition_penalty=1.2)
    said = []
    for budget in (500, 7):
        engine = make_engine({"llama": folders["llama"]}, token_budget=budget)
        for i in range(4):
            prompt = [*range(5, 65), 5 + i // 2]
            engine.add(GenerateRequest(id=i, model="llama", prompt_ids=prompt, params=params, index=i % 2))
        tokens: dict[int, list[int]] = {}
        drain(engine, tokens, {})
        said.append(tokens)
    assert said[0] == said[1]
    assert len({tuple(ids) for ids in said[0].values()}) == 4
