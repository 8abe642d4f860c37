"""The engine under a checkpoint's generation config, as the tasks fill it in, against `generate` of `transformers`."""

import asyncio
import json
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import takewhile
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from app.engine.engine import Engine
from app.engine.protocol import GenerateRequest, Hypotheses, Tokens
from app.tasks.generate import Generate
from app.tasks.served import read_served
from tests.api.fake_engine import FakeEngine
from tests.api.folders import byte_tokenizer
from tests.engine.test_engine import make_engine, num_free
from tests.parity.published import build

COUNT = 40
_DECODER: dict[str, Any] = {"vocab_size": 300, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
CHECKPOINTS: dict[str, dict[str, Any]] = {
    "GPT2LMHeadModel": _DECODER | {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 96},
    "LlamaForCausalLM": _DECODER
    | {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 96,
    },
    "T5ForConditionalGeneration": {
        "vocab_size": 300,
        "d_model": 32,
        "d_kv": 10,
        "d_ff": 48,
        "num_heads": 3,
        "num_layers": 2,
        "n_positions": 96,
        "decoder_start_token_id": 0,
    },
    "BartForConditionalGeneration": {
        "vocab_size": 300,
        "d_model": 32,
        "encoder_layers": 1,
        "decoder_layers": 2,
        "encoder_attention_heads": 4,
        "decoder_attention_heads": 4,
        "encoder_ffn_dim": 48,
        "decoder_ffn_dim": 48,
        "max_position_embeddings": 96,
        "decoder_start_token_id": 2,
        "forced_eos_token_id": None,
    },
}
_SOURCE = random.Random(0)
PROMPTS = [
    [_SOURCE.randrange(3, 40) for _ in range(length)] for length in (1, 2, 3, 5, 7, 9, 11, 13, 15, 17, 19, 20)
]


NO_RULES = ("max_length", "eos_token_id", "forced_bos_token_id")


class Checkpoint:
    """Theirs in double, its folder, and what it says without any rule."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder / "theirs"
        self.theirs, ours, _ = build(name, CHECKPOINTS[name], folder)
        self.theirs = self.theirs.double()
        self.is_decoder = ours.config.kind == "decoder"
        byte_tokenizer(pair_template=False).save(str(self.folder / "tokenizer.json"))
        self.start = [] if self.is_decoder else [ours.config.decoder_start_token_id]
        self.publish({})
        self.plain = [self.their_output(prompt, {"eos_token_id": 299}) for prompt in PROMPTS]

    def publish(self, generation: dict[str, Any]) -> None:
        plain = {"decoder_start_token_id": self.start[0]} if self.start else {}
        (self.folder / "generation_config.json").write_text(json.dumps(plain | generation))

    def their_output(self, prompt: list[int], generation: dict[str, Any]) -> list[int]:
        """What is generated; a published length takes the place of ours."""
        length = {} if "max_length" in generation else {"max_new_tokens": COUNT}
        [tokens] = self.theirs.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            do_sample=False,
            pad_token_id=0,
            **length | generation,
        ).tolist()
        output: list[int] = tokens[len(prompt if self.is_decoder else self.start) :]
        return output

    def requests(self, values: dict[str, Any]) -> list[GenerateRequest]:
        served = read_served("it", self.folder)
        engine = FakeEngine([served])
        [info] = asyncio.run(engine.start()).models
        task = Generate(served.task_model(info), engine, ThreadPoolExecutor(1))
        return task.plan(PROMPTS, task.options(values, 0.0))

    def engine(self, cache_bytes: int = 4_000_000, budget: int = 64) -> Engine:
        return make_engine({"it": self.folder}, kv_cache_memory=cache_bytes, token_budget=budget)


@pytest.fixture(scope="module", params=CHECKPOINTS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return Checkpoint(request.param, tmp_path_factory.mktemp("checkpoint"))


def outputs(engine: Engine, requests: list[GenerateRequest]) -> tuple[list[list[int]], list[str], int]:
    """Tokens and finish reasons in the order of the requests, and how often one was preempted."""
    all_free = num_free(engine)
    tokens: list[list[int]] = [[] for _ in requests]
    reasons = [""] * len(requests)
    preemptions = 0
    for i, request in enumerate(requests):
        engine.add(GenerateRequest(id=i, model="it", prompt_ids=request.prompt_ids, params=request.params))
    while engine.has_work:
        step = engine.step()
        preemptions += step.report.preemptions if step.report else 0
        for output in step.outputs:
            assert isinstance(output, Tokens)
            tokens[output.id] += output.token_ids
            reasons[output.id] = output.finish_reason or ""
    assert num_free(engine) == all_free
    return tokens, reasons, preemptions


def published(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """A generation config that bites: its words and its end token are such as come up."""
    said = checkpoint.plain
    [(eos, _)] = Counter(token for text in said for token in set(text[2:20])).most_common(1)
    words = [[token] for token in {text[1] for text in said} - {eos}][:2]
    words += [text[i : i + n] for text in said for i, n in ((2, 2), (5, 3), (9, 4))]
    configs: dict[str, dict[str, Any]] = {
        "ngrams": {"no_repeat_ngram_size": 2, "eos_token_id": 299},
        "words": {"bad_words_ids": words, "eos_token_id": [298, 299], "no_repeat_ngram_size": 3},
        "least and forced": {
            "min_length": 26,
            "max_length": 31,
            "eos_token_id": eos,
            "forced_eos_token_id": eos,
        },
        "new and all": {
            "min_new_tokens": 12,
            "eos_token_id": eos,
            "forced_eos_token_id": eos,
            "bad_words_ids": words,
            "no_repeat_ngram_size": 2,
            "repetition_penalty": 1.1,
        }
        | ({} if checkpoint.is_decoder else {"forced_bos_token_id": 7, "max_length": COUNT}),
    }
    return configs[name]


@pytest.mark.parametrize("name", ["ngrams", "words", "least and forced", "new and all"])
def test_the_engine_generates_what_transformers_generates(checkpoint: Checkpoint, name: str) -> None:
    generation = published(checkpoint, name)
    values: dict[str, Any] = {"max_tokens": COUNT}
    if not checkpoint.is_decoder and "max_length" in generation:
        values = {}
    elif "max_length" in generation:
        del generation["max_length"]  # a decoder's counts the prompt and is not our default
    checkpoint.publish(generation)
    requests = checkpoint.requests(values)
    tokens, reasons, _ = outputs(checkpoint.engine(), requests)
    eos = generation["eos_token_id"]
    ends = eos if isinstance(eos, list) else [eos]
    without_rules = {key: value for key, value in generation.items() if key in NO_RULES}
    forced = int("forced_bos_token_id" in generation)
    num_different = 0
    for i, prompt in enumerate(PROMPTS):
        theirs = checkpoint.their_output(prompt, generation)
        theirs = theirs[forced:]
        is_full = len(theirs) == requests[i].params.max_tokens
        assert is_full or theirs[-1] in ends
        is_forced = is_full and "forced_eos_token_id" in generation
        assert reasons[i] == ("length" if is_forced or theirs[-1] not in ends else "stop"), i
        assert tokens[i] == (theirs[:-1] if theirs[-1] in ends else theirs), i
        num_different += theirs != checkpoint.their_output(prompt, without_rules)[forced:]
    assert num_different > len(PROMPTS) // 2, "rules that change nothing show nothing"


def test_preempted_sequences_keep_to_their_rules(checkpoint: Checkpoint) -> None:
    checkpoint.publish(published(checkpoint, "new and all") | {"max_length": None, "min_new_tokens": 50})
    requests = checkpoint.requests({"max_tokens": 60})
    ample = outputs(checkpoint.engine(), requests)
    scarce = outputs(checkpoint.engine(SCARCE[checkpoint.name], 24), requests)
    assert scarce[:2] == ample[:2]
    assert ample[2] == 0
    assert scarce[2] > 0


SCARCE = {
    "GPT2LMHeadModel": 400_000,
    "LlamaForCausalLM": 200_000,
    "T5ForConditionalGeneration": 250_000,
    "BartForConditionalGeneration": 250_000,
}
"""Bytes of a cache that holds about half of the requests."""


def test_published_beams_are_searched_with(checkpoint: Checkpoint) -> None:
    """With what belongs to them, and with n-grams that must not come twice; a request's own settings go first."""
    [(eos, _)] = Counter(token for text in checkpoint.plain for token in set(text[2:20])).most_common(1)
    generation: dict[str, Any] = {
        "num_beams": 4,
        "length_penalty": 0.6,
        "early_stopping": True,
        "no_repeat_ngram_size": 3,
    }
    generation |= {"eos_token_id": eos}
    checkpoint.publish(generation)
    requested: list[dict[str, Any]] = [{}, {"num_beams": 2, "early_stopping": False}]
    for values in requested:
        engine = checkpoint.engine()
        for number, request in enumerate(checkpoint.requests({"max_tokens": COUNT} | values)):
            engine.add(msgspec.structs.replace(request, id=number, model="it"))
        best: dict[int, list[int]] = {}
        while engine.has_work:
            for output in engine.step().outputs:
                assert isinstance(output, Hypotheses)
                best[output.id] = output.best[0].token_ids
        for number, prompt in enumerate(PROMPTS):
            theirs = checkpoint.their_output(prompt, generation | values)
            assert best[number] == [*takewhile(lambda token: token != eos, theirs)][:COUNT]
