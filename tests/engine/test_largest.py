"""Greedy steps of quantized models say the words with the largest logits without making these."""

from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import Tensor

from app.engine.build import build_engine
from app.engine.protocol import GenerateRequest, ModelSpec, WorkerConfig
from app.engine.sampling_params import SamplingParams
from model.config import TransformerConfig
from model.loading import save_model
from model.transformer import Transformer
from tests.engine.test_encoder_decoders import CONFIGS
from tests.model.test_kernels import needs_kernel
from tests.tiny import LLAMA, T5, random_model

GREEDY = SamplingParams(max_tokens=8, ignore_eos=True)


def said(folder: Path, params: list[SamplingParams]) -> tuple[dict[int, list[int]], int]:
    """What each request gets, and in how many steps no logits were made."""
    engine = build_engine(
        WorkerConfig(models=[ModelSpec("model", str(folder), quantization="int8")], device="cpu")
    )
    texts: dict[int, list[int]] = {number: [] for number in range(len(params))}
    for number, own in enumerate(params):
        ids = [5 + number, 9, 11]
        engine.add(GenerateRequest(id=number, model="model", prompt_ids=ids, params=own))
    made, largest_words = [], Transformer.largest_words

    def counted(model: Transformer, hidden: Tensor, spans: Any = ()) -> Tensor | None:
        made.append(len(hidden))
        return largest_words(model, hidden, spans)

    with patch.object(Transformer, "largest_words", counted):
        while engine.has_work:
            for output in engine.step().outputs:
                texts[output.id] += getattr(output, "token_ids", [])
    return texts, len(made)


@needs_kernel
@pytest.mark.parametrize(
    "config",
    [LLAMA, replace(LLAMA, tie_embeddings=True), T5, CONFIGS["marian"]],
    ids=["untied", "tied", "t5", "marian"],
)
def test_texts_are_those_of_logits(config: TransformerConfig, tmp_path: Path) -> None:
    torch.manual_seed(3)
    model = random_model(config, dtype=torch.float32)
    if model.logit_bias is not None:
        model.logit_bias.data.normal_()
    save_model(model, tmp_path)
    got, num_steps = said(tmp_path, [GREEDY] * 3)
    assert num_steps >= GREEDY.max_tokens
    with patch("app.engine.runner.takes_largest", lambda _: False):
        wanted, none = said(tmp_path, [GREEDY] * 3)
    assert none == 0
    assert got == wanted
    assert all(len(text) == GREEDY.max_tokens for text in got.values())


@needs_kernel
def test_a_prompt_that_is_told_of_has_its_logits_made(tmp_path: Path) -> None:
    save_model(random_model(LLAMA, dtype=torch.float32), tmp_path)
    asked = SamplingParams(max_tokens=4, ignore_eos=True, prompt_logprobs=1)
    got, num_steps = said(tmp_path, [asked, asked])
    assert num_steps == asked.max_tokens - 1  # all but that of the prompts
    with patch("app.engine.runner.takes_largest", lambda _: False):
        assert said(tmp_path, [asked, asked]) == (got, 0)


@needs_kernel
@torch.inference_mode()
def test_rows_of_adapters_have_their_logits_made() -> None:
    model = random_model(LLAMA, dtype=torch.float32).eval().requires_grad_(False)
    model.quantize("int8", torch.float32)
    hidden = torch.randn(2, LLAMA.hidden_size)
    largest = model.largest_words(hidden)
    assert largest is not None
    assert torch.equal(largest, model.logits(hidden).argmax(-1))
    assert model.largest_words(hidden, (("some", 0, 1),)) is None


@needs_kernel
@pytest.mark.parametrize(
    "asked",
    [
        {"temperature": 0.7, "seed": 1},
        {"logprobs": 2},
        {"logit_bias": {7: 3.0}},
        {"min_tokens": 4},
        {"suppress_token_ids": (7,)},
        {"repetition_penalty": 1.5},
        {"num_beams": 2},
    ],
    ids=str,
)
def test_who_asks_for_more_has_logits_made_for_all(asked: dict[str, Any], tmp_path: Path) -> None:
    save_model(random_model(LLAMA, dtype=torch.float32), tmp_path)
    more = SamplingParams(max_tokens=4, ignore_eos=True, **asked)
    assert said(tmp_path, [SamplingParams(max_tokens=4, ignore_eos=True), more])[1] == 0
