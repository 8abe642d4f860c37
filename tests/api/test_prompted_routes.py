"""The task routes over a model that is told in words what to do: shapes, streams, refusals."""

import json
from typing import Any

import pytest
from huggingface_hub import InferenceClient, constants
from huggingface_hub.errors import BadRequestError

from app.engine.protocol import GenerateRequest
from tests.api.conftest import Service
from tests.api.fake_engine import TEXT
from tests.api.test_streams import read

SUMMARIZE = {"text": "A long story.", "max_tokens": 6}


def test_summarize_answers_one_text_or_a_list(shared: Service) -> None:
    answer = shared.post("/v1/summarize", SUMMARIZE).json()
    prompt = len(shared.engine.prompts()[-1])
    assert answer == {
        "model": "assistant",
        "summaries": [{"text": TEXT[:4]}],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": 6,
            "total_tokens": prompt + 6,
            "cached_tokens": 0,
        },
    }
    many = shared.post("/v1/summarize", SUMMARIZE | {"text": ["a", "b"], "n": 2, "temperature": 1}).json()
    assert many["summaries"] == [{"text": TEXT[:4], "alternatives": [{"text": TEXT[:4]}]}] * 2


def test_a_stream_of_a_summary(shared: Service) -> None:
    *chunks, last, done = read(shared, "/v1/summarize", SUMMARIZE | {"stream": True})
    assert done == "[DONE]"
    assert "".join(chunk["summaries"][0]["text"] for chunk in [*chunks, last]) == TEXT[:4]
    assert last["summaries"][0]["finish_reason"] == "length"
    assert last["usage"]["completion_tokens"] == 6


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"text": 3}, "text", "invalid_value"),
        ({"text": []}, "text", "invalid_value"),
        ({"text": "x" * 600}, "text", "too_long"),
        ({"text": ["a", "b"], "stream": True}, "stream", "invalid_value"),
        ({"text": "a", "n": 2, "stream": True}, "stream", "invalid_value"),
        ({"text": "a", "logprobs": 1}, "logprobs", "unsupported_parameter"),
        ({"text": "a", "prompt_logprobs": 1}, "prompt_logprobs", "unsupported_parameter"),
        ({"text": "a", "max_length": 9}, "max_length", "unknown_parameter"),
        ({"text": "a", "truncate": "yes"}, "truncate", "invalid_value"),
        ({"text": "a", "model": "writer"}, "model", "unsupported_task"),
    ],
)
def test_400_of_summarize(shared: Service, body: dict[str, Any], param: str, code: str) -> None:
    response = shared.post("/v1/summarize", body)
    error = response.json()["error"]
    assert (response.status_code, error["param"], error["code"]) == (400, param, code)


def test_too_long_a_text_is_cut_where_the_request_says_so(shared: Service) -> None:
    assert shared.post("/v1/summarize", {"text": "x" * 600, "truncate": True, "max_tokens": 9}).is_success


def test_labels_of_the_request_by_their_likelihood(service: Service) -> None:
    """Each token makes a label less likely to the fake engine."""
    body = {"text": ["Hi", "Ho"], "labels": ["abc", "d"], "model": "writer"}
    answer = service.post("/v1/classify", body).json()
    assert answer["method"] == "likelihood"
    for ranked in answer["results"]:
        assert [one["label"] for one in ranked] == ["d", "abc"]
        assert sum(one["score"] for one in ranked) == pytest.approx(1)
    targets = [one.target_ids for one in service.engine.requests if isinstance(one, GenerateRequest)]
    decode = service.engine.served["writer"].tokenizer.decode
    assert [decode(ids) for ids in targets] == [" abc", " d"] * 2


def test_translate_and_qa_by_a_prompted_model_that_is_named(shared: Service) -> None:
    body = {"text": "Hello. You.", "target": "fr", "model": "assistant", "max_tokens": 6}
    answer = shared.post("/v1/translate", body).json()
    assert answer["translations"] == [{"text": TEXT[:4], "score": pytest.approx(0.6065, abs=1e-4)}]
    decode = shared.engine.served["assistant"].tokenizer.decode
    assert "into French" in decode(shared.engine.prompts()[-1])
    body = {"question": "Who?", "context": "Grüße is here", "model": "assistant", "max_answer_tokens": 7}
    [[found]] = shared.post("/v1/qa", body).json()["answers"]
    assert (found["answer"], found["start"], found["end"]) == ("Grüße", 0, 5)
    [[elsewhere]] = shared.post("/v1/qa", body | {"context": "nobody"}).json()["answers"]
    assert json.dumps([elsewhere["start"], elsewhere["end"]]) == "[null, null]"


def test_dedicated_models_answer_where_none_is_named(shared: Service) -> None:
    body = {"text": "Hi", "target": "de", "question": "Who?", "context": "42"}
    for route, fields, model in (
        ("translate", ("text", "target"), "translator"),
        ("qa", ("question", "context"), "reader"),
    ):
        answer = shared.post(f"/v1/{route}", {field: body[field] for field in fields}).json()
        assert answer["model"] == model
    assert shared.post("/v1/classify", {"text": "Hi", "labels": ["a", "b"]}).json()["model"] == "judge"


@pytest.mark.parametrize("path", ["/pipeline/summarization", "/models/assistant/pipeline/summarization"])
def test_hugging_face_s_client_summarizes(
    shared: Service, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    client = InferenceClient(f"http://127.0.0.1:{shared.port}{path}")
    generate = {"max_new_tokens": 6}
    assert client.summarization("A long story.", generate_parameters=generate).summary_text == TEXT[:4]
    with pytest.raises(BadRequestError, match="tokens"):
        client.summarization("x" * 600, generate_parameters=generate)
    cut = client.summarization("x" * 600, generate_parameters=generate, truncation="only_first")
    assert cut.summary_text == TEXT[:4]
    with pytest.raises(BadRequestError, match="colour"):
        client.summarization("x", generate_parameters={"colour": "red"})


def test_hugging_face_s_translations_are_cut_within_the_prompt(shared: Service) -> None:
    """What comes behind the text stays: without it the model would not know that it is to answer."""
    body = {"inputs": "x" * 600, "parameters": {"tgt_lang": "de", "truncation": "only_first"}}
    response = shared.post("/models/assistant/pipeline/translation", body)
    assert response.status_code == 200, response.text
    prompt = shared.engine.served["assistant"].tokenizer.decode(shared.engine.prompts()[-1])
    assert prompt.endswith("xxxa:")
