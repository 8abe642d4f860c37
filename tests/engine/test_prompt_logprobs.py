"""What a decoder tells of its prompt's tokens, whole or in chunks, under preemption, beside others."""

import random
from pathlib import Path

import pytest
import torch

from app.engine.protocol import GenerateRequest, TokenLogprobs, Tokens
from app.engine.sampling_params import SamplingParams
from model.loading import load_model, save_model
from model.transformer import Transformer
from tests.engine.test_engine import make_engine, num_free, random_ids
from tests.tiny import LLAMA, T5, random_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llama")
    save_model(random_model(LLAMA), folder)
    return folder


def expected(
    model: Transformer, prompt: list[int], count: int
) -> list[tuple[float, list[tuple[int, float]]]]:
    """By one pass over the whole prompt."""
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        hidden = model.decode_padded(ids, torch.ones_like(ids, dtype=torch.bool))
        logprobs = model.logits(hidden[0]).log_softmax(-1)[:-1]
    values, tokens = logprobs.topk(count, dim=-1)
    return [
        (float(row[token]), list(zip(top, best, strict=True)))
        for row, token, top, best in zip(logprobs, prompt[1:], tokens.tolist(), values.tolist(), strict=True)
    ]


@pytest.mark.parametrize(("budget", "cache_bytes"), [(500, 2_000_000), (7, 2_000_000), (16, 75_000)])
def test_each_token_of_the_prompt_once(folder: Path, budget: int, cache_bytes: int) -> None:
    source = random.Random(2)
    engine = make_engine({"llama": folder}, token_budget=budget, kv_cache_memory=cache_bytes)
    all_free, shared = num_free(engine), random_ids(source, 30)
    requests = []
    for number in range(10):
        prompt = [*shared, *random_ids(source, 40)] if number % 2 else random_ids(source, 60)
        asked = None if number % 5 == 4 else number % 3
        params = SamplingParams(
            max_tokens=source.randint(1, 30), seed=0, ignore_eos=True, prompt_logprobs=asked
        )
        requests.append(GenerateRequest(id=number, model="llama", prompt_ids=prompt, params=params))
        engine.add(requests[-1])
    told: dict[int, list[TokenLogprobs]] = {}
    preemptions = 0
    while engine.has_work:
        step = engine.step()
        preemptions += step.report.preemptions if step.report else 0
        for output in step.outputs:
            assert isinstance(output, Tokens)
            if output.prompt_logprobs is not None:
                assert output.id not in told, "told once"
                told[output.id] = output.prompt_logprobs
    assert num_free(engine) == all_free
    assert (preemptions > 0) == (cache_bytes < 1_000_000)
    model = load_model(folder).double()
    for request in requests:
        asked = request.params.prompt_logprobs
        if asked is None:
            assert request.id not in told
            continue
        wanted = expected(model, request.prompt_ids, asked)
        assert [entry.logprob for entry in told[request.id]] == pytest.approx(
            [value for value, _ in wanted], abs=1e-5
        )
        for entry, (_, top) in zip(told[request.id], wanted, strict=True):
            assert [token for token, _ in entry.top] == [token for token, _ in top]


@pytest.fixture(scope="module")
def encoder_decoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("t5")
    save_model(random_model(T5), folder)
    return folder


@pytest.mark.parametrize("budget", [500, 7])
@pytest.mark.parametrize("kind", ["decoder", "encoder-decoder"])
def test_of_targets_alone_where_there_are_any(
    folder: Path, encoder_decoder: Path, kind: str, budget: int
) -> None:
    """What is before them is shared; their log-probabilities are those of one pass over everything."""
    source = random.Random(3)
    where = folder if kind == "decoder" else encoder_decoder
    engine = make_engine({"m": where}, token_budget=budget)
    prompt = random_ids(source, 70)
    targets = [random_ids(source, count) for count in (1, 2, 5, 30)]
    for number, ids in enumerate(targets):
        params = SamplingParams(max_tokens=1, prompt_logprobs=0)
        engine.add(GenerateRequest(id=number, model="m", prompt_ids=prompt, target_ids=ids, params=params))
    answers: dict[int, Tokens] = {}
    while engine.has_work:
        answers |= {output.id: output for output in engine.step().outputs if isinstance(output, Tokens)}
    model = load_model(where).double()
    for number, ids in enumerate(targets):
        told = answers[number].prompt_logprobs or []
        assert [entry.logprob for entry in told] == pytest.approx(
            likelihood(model, prompt, ids, kind == "decoder"), abs=1e-5
        )
    shared = [answers[number].cached_tokens for number in range(len(targets))]
    size = engine.infos[0].block_size
    assert max(shared) == ((len(prompt) - 1) // size * size if kind == "decoder" else len(prompt))
    assert shared.count(0) < len(targets)


def likelihood(model: Transformer, prompt: list[int], targets: list[int], is_decoder: bool) -> list[float]:
    """The log-probability of each target."""
    memory = None
    given = prompt if is_decoder else [0]
    with torch.inference_mode():
        if not is_decoder:
            source = torch.tensor([prompt])
            memory = (model.encode_padded(source, torch.ones_like(source, dtype=torch.bool)), source)
        ids = torch.tensor([[*given, *targets]])
        real = torch.ones_like(ids, dtype=torch.bool)
        if memory is None:
            hidden = model.decode_padded(ids, real)
        else:
            hidden = model.decode_padded(ids, real, memory[0], torch.ones_like(memory[1], dtype=torch.bool))
        logprobs = model.logits(hidden[0]).log_softmax(-1)
    return [float(logprobs[len(given) - 1 + i, token]) for i, token in enumerate(targets)]
