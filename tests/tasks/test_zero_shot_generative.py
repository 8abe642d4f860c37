"""How likely a generative checkpoint is to say each label, held to `transformers` over the real engine."""

import asyncio
import math
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch
import transformers as hf

from app.engine.engine import Engine
from app.engine.protocol import Encoded, EncodeRequest, Failed, GenerateRequest, Hypotheses, Tokens
from app.errors import InvalidRequest
from app.tasks.base import Usage
from app.tasks.prompts import make_prompts
from app.tasks.served import read_served
from app.tasks.zero_shot import ZeroShotOptions
from app.tasks.zero_shot_generative import GenerativeZeroShot
from tests.engine.test_engine import make_engine
from tests.parity.seeded import make_tokenizer

TEXTS = ["The old house was built by the river.", "Wer hat das Große gebaut?", "", "日本 🚀"]
LABELS = ["house", "houses", "old city", "great", "a"]
PROMPT = "{text} Is it {labels}? It is"
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_SIZES: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
_SIZES |= {"num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256}
CHECKPOINTS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "llama", _SIZES | {"bos_token_id": 1, "eos_token_id": 2}),
    "chat": ("Qwen2ForCausalLM", "qwen", _SIZES | {"bos_token_id": None, "eos_token_id": 2}),
    "gpt2": (
        "GPT2LMHeadModel",
        "gpt2",
        {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256, "bos_token_id": 0, "eos_token_id": 0},
    ),
    "t5": (
        "T5ForConditionalGeneration",
        "t5",
        {"d_model": 32, "d_ff": 48, "d_kv": 8, "num_layers": 2, "num_heads": 4, "n_positions": 256}
        | {"relative_attention_num_buckets": 8, "decoder_start_token_id": 0},
    ),
}


class Local:
    """The engine itself in place of its client."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.requests: list[GenerateRequest] = []

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Tokens]:
        raise NotImplementedError

    async def search_many(self, requests: Sequence[GenerateRequest]) -> list[Hypotheses]:
        raise NotImplementedError

    async def encode_many(self, requests: Sequence[EncodeRequest]) -> list[Encoded]:
        raise NotImplementedError

    async def generate_many(self, requests: Sequence[GenerateRequest]) -> list[Tokens]:
        self.requests += requests
        for number, request in enumerate(requests):
            self.engine.add(msgspec.structs.replace(request, id=number))
        answers: dict[int, Tokens] = {}
        while self.engine.has_work:
            for output in self.engine.step().outputs:
                assert not isinstance(output, Failed), output
                assert isinstance(output, Tokens)
                answers[output.id] = output
        return [answers[number] for number in range(len(requests))]


class Checkpoint:
    """Theirs in double, and our task over the same folder."""

    def __init__(self, name: str, folder: Path) -> None:
        class_name, kind, config = CHECKPOINTS[name]
        tokenizer, settings = make_tokenizer(kind)
        torch.manual_seed(0)
        theirs_class = getattr(hf, class_name)
        theirs = theirs_class(
            theirs_class.config_class(vocab_size=tokenizer.get_vocab_size(), **config)
        ).eval()
        for parameter in theirs.parameters():
            parameter.data += torch.randn_like(parameter) * 0.1
        theirs.save_pretrained(folder)
        self.theirs = theirs.double()
        self.is_encoder_decoder = name == "t5"
        self.template = CHAT if name == "chat" else None
        chosen = {"chat_template": self.template} if self.template else {}
        self.tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings, **chosen)
        self.tokenizer.save_pretrained(folder)
        served = read_served("it", folder, prompts=make_prompts({}, {"classify": PROMPT}, "it"))
        self.engine = Local(make_engine({"it": folder}, kv_cache_memory=8_000_000, token_budget=512))
        [info] = self.engine.engine.infos
        model = replace(served.task_model(info), max_length=info.max_model_len)
        self.task = GenerativeZeroShot(model, self.engine, ThreadPoolExecutor(1))

    def their_scores(self, text: str) -> list[float]:
        """A softmax over the labels' sums of log-probabilities."""
        prompt = PROMPT.format(text=text, labels=", ".join(LABELS))
        sums = [self.their_sum(prompt, label) for label in LABELS]
        return torch.tensor(sums, dtype=torch.float64).softmax(-1).tolist()

    def their_sum(self, prompt: str, label: str) -> float:
        encode = self.tokenizer
        if self.is_encoder_decoder:
            target = encode(label, add_special_tokens=False)["input_ids"]
            given = [0]
            logits = self.theirs(
                input_ids=torch.tensor([encode(prompt)["input_ids"]]),
                decoder_input_ids=torch.tensor([[*given, *target]]),
            ).logits
        elif self.template:
            chat = [{"role": "user", "content": prompt}]
            given = encode.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
            target = encode(label, add_special_tokens=False)["input_ids"]
            logits = self.theirs(torch.tensor([[*given, *target]])).logits
        else:
            whole, given = encode(f"{prompt} {label}")["input_ids"], encode(prompt)["input_ids"]
            assert whole[: len(given)] == given
            target = whole[len(given) :]
            logits = self.theirs(torch.tensor([whole])).logits
        logprobs = logits[0].log_softmax(-1)
        return float(sum(logprobs[len(given) - 1 + i, token] for i, token in enumerate(target)))


@pytest.fixture(scope="module", params=CHECKPOINTS)
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    return Checkpoint(request.param, tmp_path_factory.mktemp("it"))


def test_scores_are_shares_of_what_transformers_finds_likely(checkpoint: Checkpoint) -> None:
    usage = Usage()
    with torch.inference_mode():
        results = asyncio.run(checkpoint.task.run(TEXTS, LABELS, usage))
        for text, ranked in zip(TEXTS, results, strict=True):
            got = {one.label: one.score for one in ranked}
            assert [got[label] for label in LABELS] == pytest.approx(checkpoint.their_scores(text), abs=1e-6)
            assert [one.score for one in ranked] == sorted(got.values(), reverse=True)
    assert usage.prompt_tokens == sum(
        len(one.prompt_ids) + len(one.target_ids) for one in checkpoint.engine.requests
    )
    assert usage.cached_tokens > 0.5 * usage.prompt_tokens, (
        "a prompt is computed for one label and found by the others"
    )
    assert usage.completion_tokens == 0


def test_a_text_that_is_too_long_is_refused_or_cut(checkpoint: Checkpoint) -> None:
    long = "the river " * 300
    with pytest.raises(InvalidRequest) as refused:
        asyncio.run(checkpoint.task.run([long], LABELS, Usage()))
    assert (refused.value.param, refused.value.code) == ("text", "too_long")
    [ranked] = asyncio.run(
        checkpoint.task.run([long], LABELS, Usage(), ZeroShotOptions(truncate=True, top_k=2))
    )
    assert len(ranked) == 2
    request = checkpoint.engine.requests[-1]
    behind = 0 if checkpoint.is_encoder_decoder else len(request.target_ids) + 1
    assert 256 - 12 < len(request.prompt_ids) + behind <= 256


def test_what_it_cannot_do_is_refused_in_words(checkpoint: Checkpoint) -> None:
    run = checkpoint.task.run
    for param, values in {
        "multi_label": {"multi_label": True},
        "hypothesis_template": {"template": "It is {}."},
    }.items():
        with pytest.raises(InvalidRequest) as refused:
            asyncio.run(run(["a"], LABELS, Usage(), ZeroShotOptions(**values)))  # type: ignore[arg-type]
        assert refused.value.param == param
    for labels in (["a", "the river " * 300], ["a"] * 4097):
        with pytest.raises(InvalidRequest) as refused:
            asyncio.run(run(["a"], labels, Usage()))
        assert refused.value.param == "labels"


def test_a_lone_label_s_score_is_its_likelihood(checkpoint: Checkpoint) -> None:
    [[only]] = asyncio.run(checkpoint.task.run(["a text"], ["old city"], Usage()))
    with torch.inference_mode():
        wanted = math.exp(checkpoint.their_sum(PROMPT.format(text="a text", labels="old city"), "old city"))
    assert only.score == pytest.approx(wanted, rel=1e-4)
