"""POST /v1/chat/completions over a fake engine: its shapes, what it takes, and what it refuses."""

import json
from typing import Any

import httpx
import pytest

from app.engine.protocol import GenerateRequest
from app.tasks.served import Served
from tests.api.conftest import LIMITS, Service
from tests.api.fake_engine import TEXT
from tests.api.test_errors import fault
from tests.api.test_streams import read

PATH = "/v1/chat/completions"
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 9, "temperature": 0}
CHOICE = {"role": "assistant", "content": TEXT[:7], "refusal": None}


def sent(service: Service, more: dict[str, Any]) -> GenerateRequest:
    """What reaches the engine."""
    response = service.post(PATH, CHAT | more)
    assert response.status_code == 200, response.text
    request = service.engine.requests[-1]
    assert isinstance(request, GenerateRequest)
    return request


def prompt(service: Service, more: dict[str, Any]) -> str:
    ids = sent(service, more).prompt_ids
    tokenizer = service.registry.served["assistant"].tokenizer
    return tokenizer.decode(ids, skip_special_tokens=False)


def test_the_answer_has_openai_s_shape(service: Service) -> None:
    service.on_loop(lambda: setattr(service.engine, "cached_tokens", 2))
    response = service.post(PATH, CHAT | {"n": 2}, headers={"X-Request-ID": "abc"})
    answer = response.json()
    assert answer.pop("created") > 1_700_000_000
    assert answer == {
        "id": "chatcmpl-abc",
        "object": "chat.completion",
        "model": "assistant",
        "system_fingerprint": "quartet-test",
        "choices": [
            {"index": i, "message": CHOICE, "logprobs": None, "finish_reason": "length"} for i in range(2)
        ],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 18,
            "total_tokens": 25,
            "cached_tokens": 2,
            "prompt_tokens_details": {"cached_tokens": 2},
        },
    }
    assert 'outcome="ok",task="chat"} 1.0' in service.client.get("/metrics").text


def test_a_stream_begins_with_the_role_and_ends_with_the_reason(shared: Service) -> None:
    body = CHAT | {"stream": True, "n": 2, "stream_options": {"include_usage": True}}
    *chunks, last, done = read(shared, PATH, body)
    assert (done, last["choices"], last["usage"]["completion_tokens"]) == ("[DONE]", [], 18)
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert all(chunk["usage"] is None for chunk in chunks)
    assert len({chunk["id"] for chunk in [*chunks, last]}) == 1
    for index in range(2):
        mine = [chunk["choices"][0] for chunk in chunks if chunk["choices"][0]["index"] == index]
        assert mine[0]["delta"] == {"role": "assistant", "content": ""}
        assert (mine[-1]["delta"], mine[-1]["finish_reason"]) == ({}, "length")
        assert all(choice["finish_reason"] is None for choice in mine[:-1])
        assert all(set(choice["delta"]) == {"content"} for choice in mine[1:-1])
        assert "".join(choice["delta"]["content"] for choice in mine[1:-1]) == TEXT[:7]
    plain = read(shared, PATH, CHAT | {"stream": True})
    assert all("usage" not in chunk for chunk in plain[:-1])


def test_log_probabilities_have_the_bytes_of_parts_of_characters(shared: Service) -> None:
    body = CHAT | {"logprobs": True, "top_logprobs": 1}
    (choice,) = shared.post(PATH, body).json()["choices"]
    entries = choice["logprobs"]["content"]
    assert [entry["bytes"] for entry in entries] == [[byte] for byte in TEXT.encode()[:9]]
    assert entries[0] == {
        "token": "G",
        "logprob": -0.5,
        "bytes": [71],
        "top_logprobs": [{"token": "G", "logprob": -0.5, "bytes": [71]}],
    }
    chunks = read(shared, PATH, body | {"stream": True})[:-1]
    told = [chunk["choices"][0]["logprobs"] for chunk in chunks]
    assert [entry for one in told if one for entry in one["content"]] == entries
    (bare,) = shared.post(PATH, CHAT | {"logprobs": True}).json()["choices"]
    assert all(entry["top_logprobs"] == [] for entry in bare["logprobs"]["content"])


def test_the_prompt_s_log_probabilities_run_beside_its_tokens(shared: Service) -> None:
    (choice,) = shared.post(PATH, CHAT | {"prompt_logprobs": 0}).json()["choices"]
    first, *others = choice["prompt_logprobs"]
    assert first is None
    assert [entry["token"] for entry in others] == [":", "H", "i", "</s>", "a", ":"]
    assert [entry["logprob"] for entry in others] == [-1.0 / place for place in range(1, 7)]


def test_a_stop_string_cuts_text_and_log_probabilities(shared: Service) -> None:
    body = CHAT | {"max_tokens": 40, "stop": ["Stop"], "logprobs": True}
    (choice,) = shared.post(PATH, body).json()["choices"]
    assert (choice["message"]["content"], choice["finish_reason"]) == (TEXT[: TEXT.index("Stop")], "stop")


def test_the_template_makes_the_prompt(service: Service) -> None:
    assert prompt(service, {}) == "u:Hi</s>a:"
    messages = [
        {"role": "developer", "content": "Be short.", "name": "boss"},
        {"role": "user", "content": [{"type": "text", "text": "Hello"}, {"type": "text", "text": "you"}]},
        CHOICE | {"annotations": [], "tool_calls": None, "function_call": None, "audio": None},
        {"role": "user", "content": ""},
    ]
    made = prompt(service, {"messages": messages, "chat_template_kwargs": {"mood": "glad"}})
    assert made == f"s:Be short.</s>u:Hello\nyou</s>a:{TEXT[:7]}</s>u:</s>a:glad"


def test_a_final_message_can_be_continued(service: Service) -> None:
    messages = [*CHAT["messages"], {"role": "assistant", "content": "It is "}]
    assert prompt(service, {"messages": messages, "continue_final_message": True}) == "u:Hi</s>a:It is "
    assert prompt(service, {"messages": messages, "add_generation_prompt": False}).endswith("a:It is </s>")


def test_only_a_continued_message_goes_on_from_the_text_before_it(service: Service) -> None:
    messages = [*CHAT["messages"], {"role": "assistant", "content": "It is"}]
    for is_continued in (False, True):
        request = sent(service, {"messages": messages, "continue_final_message": is_continued, "regex": "a+"})
        assert request.constraint is not None
        assert request.constraint.opens_text is not is_continued


def test_the_rest_of_the_context_is_the_limit(service: Service) -> None:
    for given, wanted in (({}, 512 - 7), ({"max_completion_tokens": 3}, 3), ({"max_tokens": 4}, 4)):
        assert sent(service, {"max_tokens": None} | given).params.max_tokens == wanted
    assert sent(service, {"temperature": None}).params.temperature == 1.0


def test_what_official_clients_send_is_taken(service: Service) -> None:
    neutral: dict[str, Any] = {
        "user": "u",
        "metadata": {"a": "b"},
        "store": False,
        "service_tier": "auto",
        "parallel_tool_calls": True,
        "safety_identifier": "s",
        "prompt_cache_key": "p",
        "tools": [],
        "tool_choice": "none",
        "functions": [],
        "function_call": "none",
        "tool_prompt": "",
        "modalities": ["text"],
        "audio": None,
        "logprobs": False,
        "response_format": {"type": "text"},
        "logit_bias": {"5": -100},
        "presence_penalty": 0.5,
        "frequency_penalty": 0.5,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "min_tokens": 1,
        "ignore_eos": True,
    }
    assert sent(service, neutral).params.logit_bias == {5: -100.0}
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    for form in (
        {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": schema}},
        {"type": "json_object", "value": schema},
    ):
        constraint = sent(service, {"response_format": form}).constraint
        assert constraint is not None
        assert json.loads(constraint.text) == schema


USER = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    ("more", "param", "said"),
    [
        ({"messages": []}, "messages", "at least 1"),
        ({"messages": "Hi"}, "messages", "list"),
        ({"messages": [{"role": "user"}]}, "messages", "messages.0.content is required"),
        ({"messages": [USER | {"content": None}]}, "messages", "messages.0.content: must be a string"),
        ({"messages": [USER | {"content": []}]}, "messages", "at least one part"),
        ({"messages": [USER | {"content": ["Hi"]}]}, "messages", "parts {type, text}"),
        ({"messages": [USER | {"content": [{"type": "text", "text": 5}]}]}, "messages", "string"),
        ({"messages": [USER | {"content": [{"type": "text"}]}]}, "messages", "a text and nothing else"),
        ({"messages": [USER, {"role": "bard", "content": "Hi"}]}, "messages", "messages.1.role: must be one"),
        ({"messages": [USER | {"tone": "soft"}]}, "messages", "tone"),
        (
            {"continue_final_message": True, "add_generation_prompt": True},
            "add_generation_prompt",
            "contradicts",
        ),
        ({"top_logprobs": 2}, "top_logprobs", "logprobs: true"),
        ({"logprobs": 2}, "logprobs", "boolean"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs", "20"),
        ({"max_completion_tokens": 3}, "max_completion_tokens", "contradicts"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "stream"),
        ({"chat_template": "{{ messages }}"}, "chat_template", "unknown parameter"),
        ({"chat_template_kwargs": []}, "chat_template_kwargs", "object"),
        ({"max_tokens": 600}, "max_tokens", "512"),
        ({"stream": True, "prompt_logprobs": 1}, "stream", "prompt"),
    ],
)
def test_400_names_the_field(shared: Service, more: dict[str, Any], param: str, said: str) -> None:
    response = shared.post(PATH, CHAT | more)
    error = fault(response)
    assert (response.status_code, error["param"]) == (400, param)
    assert said in error["message"]


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"messages": [USER | {"content": [{"type": "image_url", "image_url": {"url": "a"}}]}]}, "messages"),
        ({"messages": [USER | {"content": [{"type": "input_audio", "input_audio": {}}]}]}, "messages"),
        ({"messages": [USER, {"role": "tool", "content": "5", "tool_call_id": "a"}]}, "messages"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{"id": "a"}]}]}, "messages"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"modalities": ["text", "audio"]}, "modalities"),
        ({"audio": {"voice": "a"}}, "audio"),
        ({"stream": True, "stream_options": {"include_obfuscation": True}}, "stream_options"),
    ],
)
def test_400_for_what_is_not_served_yet(shared: Service, more: dict[str, Any], param: str) -> None:
    error = fault(shared.post(PATH, CHAT | more))
    assert (error["param"], error["code"]) == (param, "unsupported_parameter")


def test_a_lone_surrogate_is_a_400_wherever_it_stands(shared: Service) -> None:
    for field in (
        '"messages": [{"role": "user", "content": "\\ud800"}]',
        '"chat_template_kwargs": {"mood": "\\ud800"}',
    ):
        content = json.dumps(CHAT)[:-1] + f", {field}}}"
        response = shared.client.post(PATH, content=content, headers={"Content-Type": "application/json"})
        assert (response.status_code, fault(response)["param"]) == (400, field.split('"')[1])


def test_what_the_template_refuses_is_told(service: Service) -> None:
    template = service.registry.served["assistant"].chat_template
    assert template is not None
    error = fault(service.post(PATH, CHAT | {"chat_template_kwargs": {"mood": ["a"]}}))
    assert error["param"] == "messages"
    assert error["message"].startswith("'assistant' does not take this chat: ")


@pytest.mark.parametrize("depth", [100, 900, 5000, 100_000])
def test_no_depth_is_a_500(shared: Service, depth: int) -> None:
    deep = "[" * depth + "]" * depth
    content = json.dumps(CHAT)[:-1] + f', "chat_template_kwargs": {{"deep": {deep}}}}}'
    response = shared.client.post(PATH, content=content, headers={"Content-Type": "application/json"})
    assert response.status_code == (200 if depth == 100 else 400), response.text


def test_without_a_chat_model_a_400_says_what_it_takes(served: list[Served]) -> None:
    service = Service([one for one in served if one.name != "assistant"], LIMITS)
    try:
        for model in (None, "dummy"):
            error = fault(service.post(PATH, CHAT | {"model": model}))
            assert error["code"] == ("unsupported_task" if model is None else "model_not_found")
        error = fault(service.post(PATH, CHAT))
        assert "chat template" in error["message"]
        error = fault(service.post(PATH, CHAT | {"model": "writer"}))
        assert (error["code"], error["param"]) == ("unsupported_task", "model")
    finally:
        service.close()


def test_a_client_that_knows_only_a_url_gets_the_one_chat_model(shared: Service) -> None:
    def ask(model: str, agent: str = "curl") -> httpx.Response:
        return shared.post(PATH, CHAT | {"model": model}, headers={"User-Agent": agent})

    for model, agent in (
        ("dummy", "curl"),
        ("tgi", "curl"),
        ("gpt", "unknown/None; hf_hub/2.4.0; python/3.11"),
    ):
        assert ask(model, agent).json()["model"] == "assistant"
    assert fault(ask("gpt"))["code"] == "model_not_found"
    assert fault(ask("writer", "hf_hub/2.4.0"))["code"] == "unsupported_task"


def test_a_models_address_is_enough_for_chats_and_completions(shared: Service) -> None:
    """Hugging Face's clients put their paths behind it, and an address, or nothing of use, into `model`."""
    chat = {"model": "dummy", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 3}
    text = {"model": "http://localhost:1", "prompt": "Hi", "max_tokens": 3}
    for path, body in (("chat/completions", chat), ("completions", text)):
        answer = shared.post(f"/models/assistant/v1/{path}", body)
        assert (answer.status_code, answer.json()["model"]) == (200, "assistant")
        unknown = shared.post(f"/models/nobody/v1/{path}", body)
        assert (unknown.status_code, unknown.json()["error_type"]) == (404, "validation")
    assert shared.post("/v1/completions", text).json()["model"] == "writer"
    assert shared.post("/v1/completions", text | {"model": "nobody"}).status_code == 404
