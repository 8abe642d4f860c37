"""The whole path, from the socket to the model and back."""

import base64
import json
import random
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
import torch

from model.loading import load_model
from model.tokenization import Tokenizer
from tests.e2e.conftest import Process

LARGE = {"prompt": "Go on. " * 200, "max_tokens": 600, "ignore_eos": True}
LONG = {"prompt": "Go on", "max_tokens": 1500, "ignore_eos": True, "temperature": 1, "seed": 5}


def post(running: Process, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = running.client.post(path, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def stream_text(running: Process, path: str, body: dict[str, Any], key: str) -> str:
    with running.client.stream("POST", path, json=body | {"stream": True}) as response:
        lines = [line.removeprefix("data: ") for line in response.iter_lines() if line.startswith("data: ")]
    assert lines[-1] == "[DONE]"
    return "".join(json.loads(line)[key][0]["text"] for line in lines[:-1])


def test_start_tells_what_was_loaded(running: Process) -> None:
    told = "".join(running.lines)
    for name in ("writer", "translator", "mood", "reader", "filler", "sentences"):
        assert f"  {name} " in told
    assert "6 models on cpu" in told
    assert "MiB" in told


def test_the_engine_process_asks_for_large_pages(running: Process) -> None:
    assert running.worker().environ()["GLIBC_TUNABLES"]


@pytest.mark.parametrize(
    ("path", "body", "key"),
    [
        ("/v1/generate", {"prompt": "Once", "max_tokens": 40, "ignore_eos": True}, "results"),
        ("/v1/generate", {"prompt": "Once", "max_tokens": 40, "temperature": 1, "seed": 3}, "results"),
        ("/v1/generate", {"prompt": "Once", "max_tokens": 80, "stop": ["a", "e", "o"]}, "results"),
        ("/v1/translate", {"text": "One is. Two are.\n", "target": "de", "max_tokens": 12}, "translations"),
        ("/v1/completions", {"prompt": "Once", "max_tokens": 40, "model": "writer", "seed": 1}, "choices"),
    ],
)
def test_a_stream_says_what_the_plain_answer_says(
    running: Process, path: str, body: dict[str, Any], key: str
) -> None:
    plain = post(running, path, body)[key][0]["text"]
    assert stream_text(running, path, body, key) == plain


def test_classification_is_the_model_s(running: Process, checkpoints: dict[str, Path]) -> None:
    folder = checkpoints["mood"]
    model = load_model(folder)
    ids = torch.tensor([Tokenizer.from_folder(folder).encode("so so").ids])
    with torch.inference_mode():
        hidden = model.encode_padded(ids, torch.ones_like(ids, dtype=torch.bool))
        expected = model.classify(hidden[:, 0]).softmax(-1)[0].tolist()
    (labels,) = post(running, "/v1/classify", {"text": "so so"})["results"]
    assert {label["label"]: label["score"] for label in labels} == pytest.approx(
        dict(zip(model.config.labels, expected, strict=True)), abs=1e-5
    )


def test_answers_stand_in_their_context(running: Process) -> None:
    context = "Ünïcode 世界. " * 60
    body = {"question": "Which?", "context": context, "top_k": 5, "max_answer_tokens": 8}
    answers = post(running, "/v1/qa", body)["answers"][0]
    assert len(answers) == 5
    for answer in answers:
        assert context[answer["start"] : answer["end"]] == answer["answer"]
        assert answer["answer"]


def test_fill_mask_and_lists(running: Process) -> None:
    results = post(running, "/v1/fill-mask", {"text": ["a [MASK] b", "[MASK]"], "top_k": 3})["results"]
    assert [len(result) for result in results] == [3, 3]
    assert results[0][0]["score"] >= results[0][1]["score"]


def test_the_openai_client_works_unchanged(running: Process) -> None:
    with openai.OpenAI(base_url=f"{running.client.base_url}/v1", api_key="none", max_retries=0) as client:
        names = [model.id for model in client.models.list()]
        assert names[0] == "writer"
        assert client.models.retrieve("mood").id == "mood"

        whole = client.completions.create(
            model="writer",
            prompt="Once",
            max_tokens=12,
            temperature=0,
            logprobs=2,
            extra_body={"ignore_eos": True},
        )
        assert (whole.object, whole.choices[0].finish_reason) == ("text_completion", "length")
        assert whole.usage is not None
        assert (whole.usage.prompt_tokens, whole.usage.completion_tokens) == (4, 12)
        assert whole.choices[0].logprobs is not None
        assert len(whole.choices[0].logprobs.tokens or []) == 12

        chunks = list(
            client.completions.create(
                model="writer",
                prompt=[84, 115],
                max_tokens=12,
                temperature=0,
                stream=True,
                stream_options={"include_usage": True},
                extra_body={"ignore_eos": True},
            )
        )
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 12

        vectors = client.embeddings.create(model="sentences", input=["one", "two"])
        floats = client.embeddings.create(
            model="sentences", input="one", encoding_format="float", dimensions=8
        )
        first = np.array(vectors.data[0].embedding)
        assert np.linalg.norm(first) == pytest.approx(1, abs=1e-5)
        cut = first[:8] / np.linalg.norm(first[:8])
        assert floats.data[0].embedding == pytest.approx(cut.tolist(), abs=1e-5)

        with pytest.raises(openai.BadRequestError) as refused:
            client.completions.create(model="writer", prompt="a", max_tokens=0)
        assert refused.value.param == "max_tokens"
        assert refused.value.request_id
        with pytest.raises(openai.NotFoundError):
            client.models.retrieve("gpt")


def test_texts_keep_to_their_constraints(running: Process, checkpoints: dict[str, Path]) -> None:
    sampled = {"prompt": "Answer:", "temperature": 1, "max_tokens": 200}
    schema = {
        "type": "object",
        "properties": {"ok": {"type": "boolean"}, "n": {"type": "integer", "minimum": 0, "maximum": 99}},
        "required": ["ok", "n"],
        "additionalProperties": False,
    }
    results = post(running, "/v1/generate", sampled | {"json_schema": schema, "n": 4, "logprobs": 1})[
        "results"
    ]
    assert [result["finish_reason"] for result in results] == ["stop"] * 4
    for result in results:
        value = json.loads(result["text"])
        assert (type(value["ok"]), value["n"] in range(100), len(value)) == (bool, True, 2)
    for body in (
        {"choice": ["ja", "nein"]},
        {"regex": "ja|nein"},
        {"grammar": 'start: "ja" | "nein"'},
        {"response_format": {"type": "json_object", "value": {"enum": ["ja", "nein"]}}},
    ):
        text = post(running, "/v1/completions", sampled | {"seed": 3} | body)["choices"][0]["text"]
        assert text.strip('"') in ("ja", "nein")
        assert stream_text(running, "/v1/completions", sampled | {"seed": 3} | body, "choices") == text
    with openai.OpenAI(base_url=f"{running.client.base_url}/v1", api_key="none", max_retries=0) as client:
        named = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
        whole = client.completions.create(
            model="writer", prompt="Answer:", max_tokens=200, extra_body={"response_format": named}
        )
        assert json.loads(whole.choices[0].text).keys() == {"ok", "n"}


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/v1/generate", {"regex": "(a"}, "regex"),
        ("/v1/generate", {"regex": "(a", "stream": True}, "regex"),
        ("/v1/generate", {"grammar": "a ::= b"}, "grammar"),
        ("/v1/generate", {"json_schema": {"type": "thing"}}, "json_schema"),
        ("/v1/completions", {"choice": ["a"], "regex": "a"}, "choice"),
        (
            "/v1/completions",
            {"response_format": {"type": "json_object", "value": {"not": {}}}},
            "response_format",
        ),
    ],
)
def test_a_constraint_that_is_refused_is_a_400(
    running: Process, path: str, body: dict[str, Any], param: str
) -> None:
    response = running.client.post(path, json={"prompt": "a"} | body)
    error = response.json()["error"]
    assert (response.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)


def test_embeddings_default_to_numbers_and_speak_base64(running: Process) -> None:
    plain = post(running, "/v1/embeddings", {"input": "one"})["data"][0]["embedding"]
    coded = post(running, "/v1/embeddings", {"input": "one", "encoding_format": "base64"})["data"][0][
        "embedding"
    ]
    assert np.frombuffer(base64.b64decode(coded), "<f4").tolist() == pytest.approx(plain)


def test_counters_add_up_in_a_mixed_load(running: Process) -> None:
    bodies: list[tuple[str, dict[str, Any], int]] = [
        ("/v1/generate", {"prompt": "One", "max_tokens": 5, "ignore_eos": True}, 200),
        ("/v1/generate", {"prompt": ["a", "b"], "max_tokens": 5, "ignore_eos": True, "stop": "\x00"}, 200),
        ("/v1/translate", {"text": "One. Two.", "target": "fr", "max_tokens": 4, "ignore_eos": True}, 200),
        ("/v1/classify", {"text": ["one", "two", "three"]}, 200),
        ("/v1/qa", {"question": "Who?", "context": "They."}, 200),
        ("/v1/embeddings", {"input": "one"}, 200),
        ("/v1/fill-mask", {"text": "[MASK]"}, 200),
        ("/v1/classify", {"text": 5}, 400),
        ("/v1/generate", {"prompt": "a", "model": "none"}, 404),
    ]
    before = counts(running)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda item: running.client.post(item[0], json=item[1]), bodies * 4))
    after = counts(running)
    assert [answer.status_code for answer in answers] == [status for _, _, status in bodies] * 4
    usages = [answer.json()["usage"] for answer in answers if answer.status_code == 200]
    assert after["ok"] - before["ok"] == 28
    assert after["client_error"] - before["client_error"] == 8
    assert after["prompt"] - before["prompt"] == sum(usage["prompt_tokens"] for usage in usages)
    assert after["generated"] - before["generated"] == sum(usage["completion_tokens"] for usage in usages)
    assert after["duration"] - before["duration"] >= 28


def counts(running: Process) -> dict[str, float]:
    found = {o: running.metric("quartet_requests_total", outcome=o) for o in ("ok", "client_error")}
    for kind in ("prompt", "generated"):
        found[kind] = running.metric("quartet_tokens_total", kind=kind)
    return found | {"duration": running.metric("quartet_request_duration_seconds_count")}


def test_clients_that_leave_free_their_blocks(running: Process) -> None:
    """One goes on, so that the engine goes on reporting; those that leave give their blocks back."""

    def usage() -> float:
        return running.metric("quartet_kv_cache_usage_ratio", model="writer")

    def num_running() -> float:
        return running.metric("quartet_requests_running", model="writer")

    with running.client.stream("POST", "/v1/generate", json=LONG | {"stream": True}) as stays:
        lines = stays.iter_lines()  # kept, as the next: httpx hangs up when it is dropped
        next(lines)
        with running.client.stream("POST", "/v1/generate", json=LARGE | {"stream": True}) as leaves:
            leaving = leaves.iter_lines()
            next(leaving)
            running.wait_until(lambda: num_running() == 2)
            peak = usage()
        running.wait_until(lambda: num_running() <= 1 and usage() < peak)
        with pytest.raises(httpx.ReadTimeout):
            running.client.post("/v1/generate", json=LARGE, timeout=0.3)
        running.wait_until(lambda: num_running() <= 1)
    running.wait_until(lambda: num_running() == 0 and usage() == 0)


def test_two_hundred_who_leave_at_any_moment_leave_nothing_behind(running: Process) -> None:
    requests: list[tuple[str, dict[str, Any]]] = [
        ("/v1/generate", LONG | {"stream": True}),
        ("/v1/generate", LARGE),
        ("/v1/generate", LONG | {"num_beams": 3}),
        ("/v1/translate", {"text": "One. Two. Three.", "target": "fr", "max_tokens": 60, "ignore_eos": True}),
        ("/v1/classify", {"text": ["one", "two", "three"]}),
    ]
    moments = random.Random(3)
    before = num_ended(running)

    def come_and_go(number: int) -> None:
        path, body = requests[number % len(requests)]
        content = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        url = running.client.base_url
        with socket.create_connection((url.host, url.port)) as connection:
            connection.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
            time.sleep(moments.uniform(0.0, 0.5))

    with ThreadPoolExecutor(40) as pool:
        list(pool.map(come_and_go, range(200)))
    running.wait_until(lambda: num_ended(running) == before + 200)
    for gauge in ("quartet_requests_running", "quartet_requests_waiting", "quartet_kv_cache_usage_ratio"):
        assert running.metric(gauge) == 0
    # one that needs all the blocks there are gets them
    assert post(running, "/v1/generate", LARGE | {"max_tokens": 5})["usage"]["completion_tokens"] == 5


def num_ended(running: Process) -> float:
    return running.metric("quartet_requests_total")


def test_a_deadline_passes(running: Process) -> None:
    response = running.client.post("/v1/generate", json=LONG, headers={"X-Request-Timeout": "0.2"})
    assert (response.status_code, response.headers["x-should-retry"]) == (504, "false")


def test_info_and_docs(running: Process) -> None:
    info = running.client.get("/info").json()
    assert info["default_models"]["generate"] == "writer"
    assert {model["dtype"] for model in info["models"]} == {"float32"}
    assert running.client.get("/ready").json() == {"status": "ready", "reasons": []}


def test_answers_do_not_wait_for_acknowledgements(running: Process) -> None:
    """A head and a body in two packets would wait 40 ms each time, were small packets held back."""
    body = {"model": "mood", "text": "one"}
    post(running, "/v1/classify", body)
    times = []
    for _ in range(20):
        start = time.perf_counter()
        post(running, "/v1/classify", body)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.03
