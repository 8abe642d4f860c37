"""Text generation as text-generation-inference tells it: details, candidates, streams, and what cannot be kept."""

import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest

from app.engine.protocol import GenerateRequest, TokenLogprobs, Tokens
from app.errors import EngineFailed, Overloaded, Unavailable
from app.tasks.served import Served
from tests.api.conftest import LIMITS, Service
from tests.api.fake_engine import TEXT
from tests.api.test_huggingface import ask, refused


def generate(service: Service, text: Any = "Hi", **parameters: Any) -> Any:
    return ask(service, "text-generation", text, "writer", parameters={"max_new_tokens": 4} | parameters)


def events(service: Service, **parameters: Any) -> list[dict[str, Any]]:
    """Of a stream that is done."""
    body = {"inputs": "Hi", "parameters": {"max_new_tokens": 6} | parameters, "stream": True}
    with service.client.stream("POST", "/models/writer", json=body) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]


def last_request(service: Service) -> GenerateRequest:
    request = service.engine.requests[-1]
    assert isinstance(request, GenerateRequest)
    return request


def test_a_text_is_an_object_in_a_list(shared: Service) -> None:
    assert generate(shared) == [{"generated_text": TEXT[:3]}]
    assert generate(shared, ["Hi", "Ho"]) == [[{"generated_text": TEXT[:3]}]] * 2
    assert generate(shared, return_full_text=True) == [{"generated_text": "Hi" + TEXT[:3]}]


@pytest.mark.parametrize(
    ("parameters", "temperature", "top_k"),
    [
        ({}, 0, 0),
        ({"do_sample": True}, 1, 0),
        ({"do_sample": True, "temperature": 0.5}, 0.5, 0),
        ({"temperature": 0.5}, 0.5, 0),
        ({"top_k": 5}, 1, 5),
        ({"top_p": 0.5}, 1, 0),
        ({"top_p": 1, "top_k": 0}, 0, 0),
        ({"do_sample": False, "temperature": 0.5, "top_k": 5}, 0, 5),
    ],
)
def test_who_narrows_what_is_drawn_draws(
    service: Service, parameters: dict[str, Any], temperature: float, top_k: int
) -> None:
    generate(service, **parameters)
    params = last_request(service).params
    assert (params.temperature, params.top_k) == (temperature, top_k)


def test_parameters_reach_the_engine(service: Service) -> None:
    generate(service, "abcdef", truncate=4, seed=7, repetition_penalty=1.5, frequency_penalty=0.5)
    request = last_request(service)
    assert service.engine.served["writer"].tokenizer.decode(request.prompt_ids) == "cdef"
    params = request.params
    assert (params.seed, params.repetition_penalty, params.frequency_penalty) == (7, 1.5, 0.5)


@pytest.mark.parametrize(
    ("grammar", "kind", "text"),
    [
        ({"type": "regex", "value": "a+"}, "regex", "a+"),
        ({"type": "json", "value": {"type": "object"}}, "json_schema", '{"type": "object"}'),
        ({"type": "json", "value": '{"type": "object"}'}, "json_schema", '{"type": "object"}'),
        (
            {"type": "json_schema", "value": {"name": "x", "schema": {"const": None}}},
            "json_schema",
            '{"const": null}',
        ),
    ],
)
def test_a_grammar_is_a_schema_or_a_regular_expression(
    service: Service, grammar: dict[str, Any], kind: str, text: str
) -> None:
    generate(service, grammar=grammar)
    constraint = last_request(service).constraint
    assert constraint is not None
    assert (constraint.kind, constraint.text) == (kind, text)


def test_details_tell_every_token(shared: Service) -> None:
    (answer,) = generate(shared, details=True, seed=3, temperature=1)
    ids = shared.engine.served["writer"].tokenizer.encode(TEXT, add_special_tokens=False).ids[:4]
    assert answer["generated_text"] == "Grü"
    assert answer["details"] == {
        "finish_reason": "length",
        "generated_tokens": 4,
        "seed": 3,
        "prefill": [],
        "tokens": [
            {"id": token_id, "text": text, "logprob": -0.5, "special": False}
            for token_id, text in zip(ids, ["G", "r", "", "ü"], strict=True)
        ],
    }


def test_candidates_and_the_prompt_s_tokens_are_told_where_asked(shared: Service) -> None:
    (answer,) = generate(shared, details=True, top_n_tokens=1, decoder_input_details=True)
    tops = answer["details"]["top_tokens"]
    assert [top["id"] for (top,) in tops] == [token["id"] for token in answer["details"]["tokens"]]
    assert set(tops[0][0]) == {"id", "text", "logprob", "special"}
    assert "top" not in answer["details"]["tokens"][0]
    prefill = answer["details"]["prefill"]
    assert [(token["text"], token["logprob"]) for token in prefill] == [("H", None), ("i", -1.0)]
    (implied,) = generate(shared, decoder_input_details=True)
    assert implied["details"]["prefill"] == prefill


def test_a_stop_string_ends_a_text_and_is_not_in_it(shared: Service) -> None:
    (answer,) = generate(shared, max_new_tokens=50, stop=["Stop"], details=True)
    assert answer["generated_text"] == TEXT[: TEXT.index("Stop")]
    assert answer["details"]["finish_reason"] == "stop_sequence"
    last = events(shared, max_new_tokens=50, stop=["Stop"], details=True)[-1]
    assert last["generated_text"] == answer["generated_text"]
    assert last["details"]["finish_reason"] == "stop_sequence"


def test_the_best_comes_first_and_details_tell_the_others(service: Service) -> None:
    assert generate(service, best_of=3) == [{"generated_text": TEXT[:3]}]
    assert len(service.engine.requests) == 3
    (answer,) = generate(service, best_of=3, details=True)
    others = answer["details"]["best_of_sequences"]
    assert [one["generated_text"] for one in others] == [TEXT[:3]] * 2
    assert set(others[0]) == {"generated_text", *(set(answer["details"]) - {"best_of_sequences"})}
    many = generate(service, ["Hi", "Ho"], best_of=2, details=True)
    assert [len(one["details"]["best_of_sequences"]) for (one,) in many] == [1, 1]


def test_a_stream_has_an_event_a_token_and_the_whole_in_the_last(shared: Service) -> None:
    got = events(shared, details=True, return_full_text=True)
    assert [set(event) for event in got] == [{"index", "token", "generated_text", "details"}] * 6
    assert [event["index"] for event in got] == [1, 2, 3, 4, 5, 6]
    assert "".join(event["token"]["text"] for event in got) == TEXT[:4]
    assert got[0]["token"] == {"id": got[0]["token"]["id"], "text": "G", "logprob": -0.5, "special": False}
    assert [event["generated_text"] for event in got] == [None] * 5 + ["Hi" + TEXT[:4]]
    assert [event["details"] for event in got[:-1]] == [None] * 5
    assert got[-1]["details"] == {
        "finish_reason": "length",
        "generated_tokens": 6,
        "input_length": 2,
        "seed": None,
    }
    plain = events(shared, top_n_tokens=1)
    assert plain[-1]["details"] is None
    assert [len(event["top_tokens"]) for event in plain] == [1] * 6


def test_an_end_that_no_token_told_of_has_an_event_of_its_own(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the model says that the text ends: what was held back as a possible stop string comes with it."""

    async def one_then_end(_: GenerateRequest) -> AsyncGenerator[Tokens]:
        ids = service.engine.served["writer"].tokenizer.encode("abn", add_special_tokens=False).ids
        yield Tokens(id=1, token_ids=ids, logprobs=[TokenLogprobs(-0.5)] * 3)
        yield Tokens(id=1, token_ids=[], logprobs=[], finish_reason="stop")

    monkeypatch.setattr(service.engine, "generate", one_then_end)
    got = events(service, stop=["never"], details=True)
    assert [event["token"]["text"] for event in got] == ["", "", "ab", "n"]
    end = {"id": 1, "text": "n", "logprob": None, "special": True}
    assert (got[-1]["token"], got[-1]["generated_text"]) == (end, "abn")
    assert got[-1]["details"]["finish_reason"] == "eos_token"
    assert generate(service, details=True)[0]["details"]["finish_reason"] == "eos_token"


def test_an_adapter_is_named_by_its_id(served: list[Served]) -> None:
    (writer,) = (one for one in served if one.name == "writer")
    running = Service([*served, replace(writer, name="tuned", base="writer")], LIMITS)
    try:
        body = {"inputs": "Hi", "parameters": {"adapter_id": "tuned", "max_new_tokens": 2}}
        for path in ("/pipeline/text-generation", "/models/writer", "/models/tuned", "/"):
            assert running.post(path, body).status_code == 200
        assert {request.model for request in running.engine.requests} == {"tuned"}
        refused(running.post("/models/translator/pipeline/text-generation", body), "adapter_id")
    finally:
        running.close()


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"typical_p": 0.9}, "typical_p"),
        ({"watermark": True}, "watermark"),
        ({"top_n_tokens": 21}, "top_n_tokens"),
        ({"adapter_id": "writer"}, "adapter_id"),
        ({"adapter_id": "none"}, "adapter_id"),
        ({"best_of": 65}, "best_of"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"max_new_tokens": 10**6}, "max_new_tokens"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"num_beams": 2}, "num_beams"),
        ({"stop": [""]}, "stop"),
        ({"truncate": 0}, "truncate"),
        ({"temperature": -1}, "temperature"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"seed": 2**70}, "seed"),
        ({"grammar": {"type": "xml", "value": "x"}}, "grammar"),
        ({"grammar": {"type": "regex", "value": {}}}, "grammar"),
        ({"grammar": {"type": "json", "value": "{"}}, "grammar"),
        ({"grammar": {"type": "json", "value": "[]"}}, "grammar"),
        ({"grammar": {"type": "regex"}}, "grammar"),
        ({"grammar": {"type": "regex", "value": "a" * 70_000}}, "grammar"),
    ],
)
def test_what_cannot_be_kept_is_refused(shared: Service, parameters: dict[str, Any], field: str) -> None:
    for stream in (False, True):
        body = {"inputs": "Hi", "parameters": parameters, "stream": stream}
        refused(shared.post("/pipeline/text-generation", body), field)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"inputs": ["Hi", "Ho"]}, "inputs"),
        ({"inputs": "Hi", "parameters": {"decoder_input_details": True}}, "decoder_input_details"),
        ({"inputs": "Hi", "parameters": {"best_of": 2}}, "best_of"),
    ],
)
def test_what_a_stream_cannot_tell_is_refused(shared: Service, body: dict[str, Any], field: str) -> None:
    refused(shared.post("/models/writer", body | {"stream": True}), field)


def test_an_encoder_decoder_has_no_text_before_and_no_prompt_to_tell_of(shared: Service) -> None:
    for field in ("return_full_text", "decoder_input_details"):
        body = {"inputs": "Hi", "parameters": {field: True}}
        refused(shared.post("/models/translator/pipeline/text-generation", body), field)


def test_what_asks_for_nothing_passes(shared: Service) -> None:
    neutral = {"typical_p": 1.0, "watermark": False, "best_of": 1, "top_n_tokens": 0, "grammar": None}
    assert generate(shared, **neutral) == [{"generated_text": TEXT[:3]}]


@pytest.mark.parametrize(
    ("failure", "word"),
    [
        (EngineFailed("broken"), "generation"),
        (Unavailable("stopped"), "incomplete_generation"),
        (Overloaded("full"), "incomplete_generation"),
    ],
)
def test_a_stream_that_breaks_ends_with_an_error(service: Service, failure: Exception, word: str) -> None:
    def fail_later() -> None:
        service.engine.failure, service.engine.fail_after = failure, 2

    service.on_loop(fail_later)
    body = {"inputs": "Hi", "stream": True}
    with service.client.stream("POST", "/models/writer", json=body) as answer:
        lines = [line for line in answer.iter_lines() if line]
    assert answer.status_code == 200
    assert len(lines) == 3
    assert json.loads(lines[-1].removeprefix("data: "))["error_type"] == word
