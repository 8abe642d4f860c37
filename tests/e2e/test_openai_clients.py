"""The official clients against one real service, unchanged: OpenAI's, Hugging Face's and LangChain's."""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import huggingface_hub.constants
import numpy as np
import openai
import pydantic
import pytest
import torch
import transformers
from huggingface_hub import InferenceClient
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from langchain_openai import ChatOpenAI
from openai.types.chat import ChatCompletionMessageParam

from model.loading import save_model
from tests.e2e.conftest import Process
from tests.tasks.chat_folders import PUBLISHED, write_tokenizer
from tests.tiny import LLAMA, random_model

MESSAGES: list[ChatCompletionMessageParam] = [
    {"role": "system", "content": "Be short."},
    {"role": "user", "content": [{"type": "text", "text": "Grüße, 世界!"}]},
]
PLAIN = [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Grüße, 世界!"}]
BODY: dict[str, Any] = {"model": "assistant", "max_tokens": 24}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat") / "assistant"
    size = write_tokenizer(folder, PUBLISHED["chatml"])
    end = size - 2
    model = random_model(
        LLAMA,
        dtype=torch.float32,
        vocab_size=size,
        max_positions=1024,
        bos_token_id=None,
        eos_token_ids=(end,),
    )
    save_model(model, folder)
    return folder


@pytest.fixture(scope="module")
def service(folder: Path, checkpoints: dict[str, Path]) -> Iterator[Process]:
    models = {"assistant": folder, "writer": checkpoints["writer"], "sentences": checkpoints["sentences"]}
    flags = [part for name, path in models.items() for part in ("--model", f"{name}={path}")]
    process = Process(*flags, "--kv-cache-memory", str(16 << 20))
    yield process
    assert process.stop() == 0


@pytest.fixture(scope="module")
def official(service: Process) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{service.client.base_url}/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture
def hub_client(service: Process, monkeypatch: pytest.MonkeyPatch) -> InferenceClient:
    """Where tests are run offline, it would not speak to this machine either."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    return InferenceClient(base_url=str(service.client.base_url))


def test_a_greedy_answer_is_that_of_transformers(official: openai.OpenAI, folder: Path) -> None:
    answer = official.chat.completions.create(messages=MESSAGES, temperature=0, **BODY)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    prompt = tokenizer.apply_chat_template(
        PLAIN, add_generation_prompt=True, return_dict=False, return_tensors="pt"
    )
    with torch.inference_mode():
        made = model.generate(prompt, max_new_tokens=24, do_sample=False)[0, prompt.shape[1] :]
    assert answer.choices[0].message.content == tokenizer.decode(made, skip_special_tokens=True)
    assert answer.usage is not None
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (prompt.shape[1], len(made))
    assert answer.usage.prompt_tokens_details is not None
    assert answer.usage.prompt_tokens_details.cached_tokens is not None
    assert answer.object == "chat.completion"
    assert answer.id.startswith("chatcmpl-")


def test_a_stream_says_what_the_plain_answer_says(official: openai.OpenAI) -> None:
    body = BODY | {"n": 2, "seed": 7, "extra_body": {"top_k": 50}}
    plain = official.chat.completions.create(messages=MESSAGES, **body)
    stream = official.chat.completions.create(
        messages=MESSAGES, stream=True, stream_options={"include_usage": True}, **body
    )
    *chunks, last = list(stream)
    assert (last.choices, last.usage and last.usage.completion_tokens) == (
        [],
        plain.usage and plain.usage.completion_tokens,
    )
    said, ends = ["", ""], [None, None]
    for chunk in chunks:
        (choice,) = chunk.choices
        said[choice.index] += choice.delta.content or ""
        ends[choice.index] = choice.finish_reason or ends[choice.index]
    assert said == [choice.message.content for choice in plain.choices]
    assert ends == [choice.finish_reason for choice in plain.choices]
    assert said[0] != said[1]


def test_log_probabilities_of_bytes_make_the_text(official: openai.OpenAI) -> None:
    answer = official.chat.completions.create(
        messages=MESSAGES, seed=5, logprobs=True, top_logprobs=3, **BODY
    )
    choice = answer.choices[0]
    assert choice.logprobs is not None
    assert choice.logprobs.content is not None
    assert all(len(entry.top_logprobs) == 3 and entry.logprob <= 0 for entry in choice.logprobs.content)
    ends = {"</s>", "<|im_end|>", "<pad>", "[CLS]", "[SEP]", "[MASK]", "<|im_start|>"}
    spoken = [entry for entry in choice.logprobs.content if entry.token not in ends]
    text = b"".join(bytes(entry.bytes or ()) for entry in spoken).decode(errors="replace")
    assert text == choice.message.content


class Verdict(pydantic.BaseModel):
    """What the model is made to say."""

    model_config = pydantic.ConfigDict(extra="forbid")

    is_good: bool
    colour: Literal["red", "white"]


def test_answers_are_parsed_into_a_type(official: openai.OpenAI) -> None:
    asked: dict[str, Any] = {
        "model": "assistant",
        "messages": MESSAGES,
        "response_format": Verdict,
        "seed": 1,
        "logprobs": True,
    }
    (plain,) = official.chat.completions.parse(**asked).choices
    assert isinstance(plain.message.parsed, Verdict)
    assert plain.finish_reason == "stop"
    with official.chat.completions.stream(**asked) as stream:
        (whole,) = stream.get_final_completion().choices
    assert (whole.message.parsed, whole.logprobs) == (plain.message.parsed, plain.logprobs)


def test_an_answer_sent_back_is_a_message(official: openai.OpenAI) -> None:
    first = official.chat.completions.create(messages=MESSAGES, seed=1, **BODY)
    history: list[Any] = [*MESSAGES, first.choices[0].message, {"role": "user", "content": "Why?"}]
    second = official.chat.completions.create(messages=history, **BODY)
    assert second.usage is not None
    assert first.usage is not None
    assert second.usage.prompt_tokens > first.usage.prompt_tokens


def test_refusals_are_the_client_s_exceptions(official: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="served are") as unknown:
        official.chat.completions.create(model="gpt", messages=MESSAGES)
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as image:
        official.chat.completions.create(
            model="assistant",
            messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "a"}}]}],
        )
    assert (image.value.code, image.value.param) == ("unsupported_parameter", "messages")
    with pytest.raises(openai.BadRequestError) as tools:
        official.chat.completions.create(
            messages=MESSAGES, tools=[{"type": "function", "function": {"name": "f"}}], **BODY
        )
    assert tools.value.param == "tools"
    with pytest.raises(openai.BadRequestError) as other:
        official.chat.completions.create(model="sentences", messages=MESSAGES)
    assert other.value.code == "unsupported_task"


def test_completions_embeddings_and_models(official: openai.OpenAI) -> None:
    text = official.completions.create(model="writer", prompt=["a", "b"], n=2, max_tokens=4, seed=1)
    assert [choice.index for choice in text.choices] == [0, 1, 2, 3]
    asked = {"model": "sentences", "input": ["one", "two"]}
    as_base64 = official.embeddings.create(**asked)  # type: ignore[arg-type]
    as_floats = official.embeddings.create(**asked, encoding_format="float")  # type: ignore[arg-type]
    for one, other in zip(as_base64.data, as_floats.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)
        assert np.linalg.norm(one.embedding) == pytest.approx(1, abs=1e-5)
    raw = official.embeddings.with_raw_response.create(**asked)  # type: ignore[arg-type]
    data = json.loads(raw.text)["data"]
    assert np.frombuffer(base64.b64decode(data[0]["embedding"]), "<f4").size == len(
        as_floats.data[0].embedding
    )
    cards = {card.id: card.model_dump() for card in official.models.list()}
    assert {"generate", "chat"} <= {*cards["assistant"]["tasks"]}
    assert cards["writer"]["tasks"] == ["generate", "zero-shot"]
    assert official.models.retrieve("sentences").id == "sentences"


def test_hugging_face_s_client_chats(hub_client: InferenceClient, official: openai.OpenAI) -> None:
    options: dict[str, Any] = {"max_tokens": 24, "seed": 7, "logprobs": True, "top_logprobs": 2}
    answer = hub_client.chat_completion(PLAIN, **options)
    wanted = official.chat.completions.create(model="assistant", messages=MESSAGES, **options)
    assert answer.model == "assistant"
    assert answer.choices[0].message.content == wanted.choices[0].message.content
    assert answer.choices[0].logprobs is not None
    assert len(answer.choices[0].logprobs.content) == answer.usage.completion_tokens
    stream = hub_client.chat_completion(PLAIN, stream=True, **options)
    said = "".join(choice.delta.content or "" for chunk in stream for choice in chunk.choices)
    assert said == answer.choices[0].message.content
    schema: Any = {"name": "verdict", "schema": Verdict.model_json_schema(), "strict": True}
    form: Any = {"type": "json_schema", "json_schema": schema}
    formed = hub_client.chat_completion(PLAIN, seed=1, response_format=form)
    Verdict.model_validate_json(formed.choices[0].message.content or "")


def test_langchain_chats(service: Process, official: openai.OpenAI) -> None:
    model = ChatOpenAI(
        base_url=f"{service.client.base_url}/v1",
        api_key=pydantic.SecretStr("none"),
        model="assistant",
        max_completion_tokens=24,
        seed=7,
        temperature=1.0,
        max_retries=0,
    )
    chat = [SystemMessage("Be short."), HumanMessage("Grüße, 世界!")]
    answer = model.invoke(chat)
    wanted = official.chat.completions.create(messages=MESSAGES, seed=7, **BODY)
    assert answer.content == wanted.choices[0].message.content
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["output_tokens"] == wanted.usage.completion_tokens
    assert "".join(str(chunk.content) for chunk in model.stream(chat)) == answer.content
    again = model.invoke([*chat, AIMessage(answer.content), HumanMessage("Why?")])
    assert isinstance(again.content, str)
    roomy = model.model_copy(update={"max_tokens": 100})
    typed = roomy.with_structured_output(Verdict, method="json_schema").invoke(chat)
    assert isinstance(typed, Verdict)
