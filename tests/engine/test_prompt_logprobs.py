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
from tests.tiny import LLAMA, random_model


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
