"""What Hugging Face's routes answer, to the letter, and what they refuse."""

import math
from typing import Any

import httpx
import pytest

from app.engine.protocol import EncodeRequest, GenerateRequest
from app.errors import EngineFailed, Overloaded
from tests.api.conftest import Service
from tests.api.fake_engine import TEXT

DEEP = {"question": "Which year?", "context": "It was built in 1837 and sold in 1999."}


def ask(service: Service, task: str, inputs: Any, model: str | None = None, **more: Any) -> Any:
    path = f"/pipeline/{task}" if model is None else f"/models/{model}/pipeline/{task}"
    answer = service.post(path, {"inputs": inputs, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(answer: httpx.Response, field: str, status: int = 400) -> str:
    """The message, which names the field."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error", "error_type"}
    assert body["error_type"] == "validation"
    assert field in body["error"], body
    message: str = body["error"]
    return message


def softmax(*logits: float) -> list[float]:
    powers = [math.exp(logit) for logit in logits]
    return [power / sum(powers) for power in powers]


def test_labels_are_nested_also_for_one_text(shared: Service) -> None:
    (labels,) = ask(shared, "text-classification", "Hi")
    scores = softmax(2, 1, 0)
    assert [one["label"] for one in labels] == ["good", "fair", "bad"]
    assert [one["score"] for one in labels] == pytest.approx(scores)
    assert set(labels[0]) == {"label", "score"}
    assert ask(shared, "text-classification", ["Hi", "Ho"]) == [labels, labels]
    assert ask(shared, "text-classification", "Hi", parameters={"top_k": 1}) == [labels[:1]]


@pytest.mark.parametrize(
    ("function", "scores"),
    [("none", [2, 1, 0]), ("softmax", softmax(2, 1, 0)), ("sigmoid", [0.880797, 0.731059, 0.5])],
)
def test_scores_are_made_by_the_function_that_is_asked_for(
    shared: Service, function: str, scores: list[float]
) -> None:
    (labels,) = ask(shared, "text-classification", "Hi", parameters={"function_to_apply": function})
    assert [one["score"] for one in labels] == pytest.approx(scores, abs=1e-6)


def test_labels_of_the_request_are_a_flat_list(shared: Service) -> None:
    parameters = {"candidate_labels": ["art", "law", "sea"]}
    found = ask(shared, "zero-shot-classification", "Hi", parameters=parameters)
    assert [set(one) for one in found] == [{"label", "score"}] * 3
    assert sum(one["score"] for one in found) == pytest.approx(1)
    assert ask(shared, "zero-shot-classification", ["Hi", "Ho"], parameters=parameters) == [found, found]
    alone = parameters | {"multi_label": True, "hypothesis_template": "It is about {}."}
    scores = [one["score"] for one in ask(shared, "zero-shot-classification", "Hi", parameters=alone)]
    assert scores == pytest.approx([softmax(0, 2)[1]] * 3)


def test_entities_are_groups_and_without_aggregation_tokens(shared: Service) -> None:
    found = ask(shared, "token-classification", "Hi 42")
    assert [set(one) for one in found] == [{"entity_group", "score", "word", "start", "end"}]
    assert (found[0]["entity_group"], found[0]["start"], found[0]["end"]) == ("NUM", 3, 5)
    tokens = ask(shared, "token-classification", "Hi 42", parameters={"aggregation_strategy": "none"})
    assert [set(one) for one in tokens] == [{"entity", "score", "index", "word", "start", "end"}] * 2
    assert [(one["entity"], one["start"]) for one in tokens] == [("B-NUM", 3), ("I-NUM", 4)]
    assert ask(shared, "token-classification", ["Hi 42"]) == [found]
    every = ask(shared, "token-classification", "Hi 42", parameters={"ignore_labels": []})
    assert [one["entity_group"] for one in every] == ["O", "NUM"]


def test_an_answer_is_an_object_and_several_are_a_list(shared: Service) -> None:
    answer = ask(shared, "question-answering", DEEP)
    assert set(answer) == {"answer", "score", "start", "end"}
    assert DEEP["context"][answer["start"] : answer["end"]] == answer["answer"]
    several = ask(shared, "question-answering", DEEP, parameters={"top_k": 2, "align_to_words": False})
    assert sorted(one["answer"] for one in several) == ["1837", "1999"]
    assert ask(shared, "question-answering", [DEEP, DEEP]) == [answer, answer]
    nested = ask(shared, "question-answering", [DEEP], parameters={"top_k": 2, "align_to_words": False})
    assert nested == [several]


def test_an_impossible_answer_is_empty(shared: Service) -> None:
    item = {"question": "Which year?", "context": "Nobody knows."}
    parameters = {"handle_impossible_answer": True, "max_answer_len": 3, "doc_stride": 16}
    found = ask(shared, "question-answering", item, parameters=parameters)
    assert (found["answer"], found["start"], found["end"]) == ("", 0, 0)


def test_lengths_reach_the_engine_as_windows_and_questions(service: Service) -> None:
    item = {"question": "Which year?", "context": "x" * 40}
    ask(service, "question-answering", item)
    ask(service, "question-answering", item, parameters={"max_question_len": 5, "doc_stride": 4})
    ask(
        service,
        "question-answering",
        item,
        parameters={"max_question_len": 5, "max_seq_len": 20, "doc_stride": 4},
    )
    lengths = [len(r.ids) for r in service.engine.requests if isinstance(r, EncodeRequest)]
    assert lengths[:2] == [11 + 40 + 3, 5 + 40 + 3]
    assert len(lengths) > 4
    assert max(lengths[2:]) == 20


def test_masks_are_filled_with_ids_tokens_and_whole_texts(shared: Service) -> None:
    found = ask(shared, "fill-mask", "a [MASK]", parameters={"top_k": 2})
    decode = shared.engine.served["filler"].tokenizer.decode
    assert [set(one) for one in found] == [{"score", "token", "token_str", "sequence"}] * 2
    assert [one["token"] for one in found] == [97, 98]
    assert [one["token_str"] for one in found] == [decode([97]), decode([98])]
    assert [one["sequence"] for one in found] == ["a " + decode([97]), "a " + decode([98])]
    assert len(ask(shared, "fill-mask", "a [MASK]")) == 5
    assert ask(shared, "fill-mask", ["a [MASK]"], parameters={"top_k": 2}) == [found]


def test_only_targets_are_told_and_of_a_longer_one_the_first_token(service: Service) -> None:
    found = ask(service, "fill-mask", "a [MASK]", parameters={"targets": ["z", "yes", "y"]})
    assert [one["token_str"] for one in found] == ["z", "y"]
    assert (
        ask(service, "fill-mask", "[MASK]", parameters={"targets": ["z", "y"], "top_k": 1})[0]["token_str"]
        == "z"
    )


def test_translations_are_objects_in_a_list(service: Service) -> None:
    parameters = {"src_lang": "en", "tgt_lang": "de", "generate_parameters": {"max_new_tokens": 4}}
    assert ask(service, "translation", "Hi. Ho.", parameters=parameters) == [{"translation_text": TEXT[:3]}]
    assert len(service.engine.requests) == 1, "not cut into sentences"
    assert (
        ask(service, "translation", ["Hi", "Ho"], parameters=parameters)
        == [{"translation_text": TEXT[:3]}] * 2
    )
    several = parameters | {
        "generate_parameters": {"max_length": 8, "num_beams": 3, "num_return_sequences": 2}
    }
    texts = [{"translation_text": TEXT[:5]}, {"translation_text": TEXT[:4]}]
    assert ask(service, "translation", "Hi", parameters=several) == texts
    assert ask(service, "translation", ["Hi"], parameters=several) == [texts]


def test_summaries_are_objects_in_a_list(service: Service) -> None:
    parameters = {"generate_parameters": {"max_new_tokens": 4, "num_beams": 1}}
    summary = {"summary_text": TEXT[:3]}
    assert ask(service, "summarization", "A long text.", parameters=parameters) == [summary]
    assert ask(service, "summarization", ["A text.", "Another."], parameters=parameters) == [summary] * 2
    refused(service.post("/pipeline/summarization", {"inputs": "x" * 600}), "inputs")
    assert ask(service, "summarization", "x" * 600, parameters=parameters | {"truncation": "longest_first"})


def test_text_to_text_is_generated_text(service: Service) -> None:
    parameters = {"generate_parameters": {"max_new_tokens": 4, "min_length": 3, "do_sample": True}}
    assert ask(service, "text2text-generation", "Hi", "translator", parameters=parameters) == [
        {"generated_text": TEXT[:3]}
    ]
    (request,) = service.engine.requests
    assert isinstance(request, GenerateRequest)
    assert (request.params.temperature, request.params.min_tokens) == (1.0, 2)


def test_blanks_before_marks_are_taken_out_when_asked(service: Service) -> None:
    service.on_loop(lambda: setattr(service.engine, "text", "It is n't so , is it ?"))
    parameters: dict[str, Any] = {"generate_parameters": {"max_new_tokens": 22}}
    kept = ask(service, "text2text-generation", "Hi", "translator", parameters=parameters)
    cleaned = ask(
        service,
        "text2text-generation",
        "Hi",
        "translator",
        parameters=parameters | {"clean_up_tokenization_spaces": True},
    )
    assert kept == [{"generated_text": "It is n't so , is it ?"}]
    assert cleaned == [{"generated_text": "It isn't so, is it?"}]


@pytest.mark.parametrize("task", ["translation", "text2text-generation"])
def test_long_sources_are_cut_only_when_asked(service: Service, task: str) -> None:
    languages = {"tgt_lang": "de"} if task == "translation" else {}
    generate = {"generate_parameters": {"max_new_tokens": 2}}
    body = {"inputs": "x" * 300, "parameters": languages | generate}
    path = f"/models/translator/pipeline/{task}"
    refused(service.post(path, body), "inputs")
    body["parameters"] = {**languages, **generate, "truncation": "only_second"}
    refused(service.post(path, body), "inputs")
    body["parameters"] = {**languages, **generate, "truncation": "only_first"}
    assert service.post(path, body).status_code == 200
    assert [len(prompt) for prompt in service.engine.prompts()] == [128]


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("text-classification", {}, "inputs"),
        ("text-classification", {"inputs": None}, "inputs"),
        ("text-classification", {"inputs": 5}, "inputs"),
        ("text-classification", {"inputs": []}, "inputs"),
        ("text-classification", {"inputs": "Hi", "parameters": {"top_p": 1}}, "top_p"),
        ("text-classification", {"inputs": "Hi", "parameters": {"top_k": 0}}, "top_k"),
        ("text-classification", {"inputs": "Hi", "parameters": {"top_k": "1"}}, "top_k"),
        ("text-classification", {"inputs": "Hi", "parameters": []}, "parameters"),
        ("text-classification", {"inputs": "Hi", "stream": True}, "stream"),
        (
            "text-classification",
            {"inputs": "Hi", "parameters": {"function_to_apply": "relu"}},
            "function_to_apply",
        ),
        ("text-classification", {"inputs": "x" * 100}, "inputs"),
        ("question-answering", {"inputs": "Hi"}, "inputs"),
        ("question-answering", {"inputs": {"question": "Why?"}}, "context"),
        ("question-answering", {"inputs": {"question": " ", "context": "x"}}, "question"),
        ("question-answering", {"inputs": {"question": "x", "context": ""}}, "context"),
        ("question-answering", {"inputs": [DEEP, {"question": "x"}]}, "inputs.1.context"),
        ("question-answering", {"inputs": DEEP, "parameters": {"top_k": 0}}, "top_k"),
        ("question-answering", {"inputs": DEEP, "parameters": {"max_seq_len": 10}}, "question"),
        ("zero-shot-classification", {"inputs": "Hi"}, "parameters"),
        ("zero-shot-classification", {"inputs": "Hi", "parameters": {}}, "candidate_labels"),
        (
            "zero-shot-classification",
            {"inputs": "Hi", "parameters": {"candidate_labels": []}},
            "candidate_labels",
        ),
        (
            "zero-shot-classification",
            {"inputs": "Hi", "parameters": {"candidate_labels": ["a"], "hypothesis_template": "x"}},
            "hypothesis_template",
        ),
        (
            "token-classification",
            {"inputs": "Hi", "parameters": {"aggregation_strategy": "mean"}},
            "aggregation",
        ),
        ("token-classification", {"inputs": "Hi", "parameters": {"ignore_labels": "O"}}, "ignore_labels"),
        ("token-classification", {"inputs": "Hi", "parameters": {"stride": 64}}, "stride"),
        (
            "token-classification",
            {"inputs": "Hi", "parameters": {"stride": 1, "aggregation_strategy": "none"}},
            "stride",
        ),
        ("fill-mask", {"inputs": "no mask"}, "inputs"),
        ("fill-mask", {"inputs": "[MASK] [MASK]"}, "inputs"),
        ("fill-mask", {"inputs": "[MASK]", "parameters": {"targets": []}}, "targets"),
        ("fill-mask", {"inputs": "[MASK]", "parameters": {"targets": [""]}}, "targets"),
        ("feature-extraction", {"inputs": "Hi", "prompt_name": "query"}, "prompt_name"),
        ("feature-extraction", {"inputs": "Hi", "dimensions": 9}, "dimensions"),
        ("feature-extraction", {"inputs": "Hi", "truncation_direction": "up"}, "truncation_direction"),
        ("feature-extraction", {"inputs": "Hi", "parameters": {"normalize": True}}, "normalize"),
        ("sentence-similarity", {"inputs": {"source_sentence": "a"}}, "sentences"),
        ("sentence-similarity", {"inputs": {"source_sentence": "a", "sentences": []}}, "sentences"),
        ("translation", {"inputs": "Hi"}, "tgt_lang"),
        ("translation", {"inputs": "Hi", "parameters": {"tgt_lang": "xx"}}, "tgt_lang"),
        ("translation", {"inputs": "Hi", "parameters": {"tgt_lang": "de", "src_lang": "fr"}}, "src_lang"),
        (
            "translation",
            {"inputs": "Hi", "parameters": {"tgt_lang": "de", "truncation": "left"}},
            "truncation",
        ),
        *(
            (
                "translation",
                {"inputs": "Hi", "parameters": {"tgt_lang": "de", "generate_parameters": {k: v}}},
                k,
            )
            for k, v in (
                ("max_tokens", 5),
                ("max_new_tokens", 10**6),
                ("num_beam_groups", 2),
                ("penalty_alpha", 0.6),
                ("typical_p", 0.9),
                ("temperature", 3),
                ("num_return_sequences", 65),
            )
        ),
        ("translate", {"inputs": "Hi"}, "/pipeline/translate"),
    ],
)
def test_bad_requests_name_the_field(shared: Service, path: str, body: dict[str, Any], field: str) -> None:
    refused(shared.post(f"/pipeline/{path}", body), field, 404 if path == "translate" else 400)


def test_what_asks_for_nothing_passes(shared: Service) -> None:
    options = {"use_cache": False, "wait_for_model": True}
    assert ask(shared, "text-classification", "Hi", options=options, parameters=None)
    parameters = {"top_k": None, "function_to_apply": None}
    assert len(ask(shared, "text-classification", "Hi", parameters=parameters)[0]) == 3
    neutral = {"num_beam_groups": 1, "penalty_alpha": None, "typical_p": 1.0, "use_cache": True}
    assert ask(shared, "translation", "Hi", parameters={"tgt_lang": "de", "generate_parameters": neutral})


@pytest.mark.parametrize(
    ("inputs", "more", "key"),
    [
        ("Hi", {}, "generated_text"),  # the first served model writes
        (DEEP, {}, "answer"),
        ("Hi", {"parameters": {"tgt_lang": "de"}}, "translation_text"),
        ("a [MASK]", {"parameters": {"targets": ["a"]}}, "token_str"),
        ("Hi", {"parameters": {"function_to_apply": "none"}}, "label"),
        ("Hi", {"parameters": {"candidate_labels": ["a", "b"]}}, "label"),
        ("Hi 5", {"parameters": {"aggregation_strategy": "simple"}}, "entity_group"),
    ],
)
def test_the_bare_address_goes_by_fields_then_by_the_first_model(
    shared: Service, inputs: Any, more: dict[str, Any], key: str
) -> None:
    answer = shared.post("/", {"inputs": inputs, **more})
    assert answer.status_code == 200, answer.text
    assert f'"{key}"' in answer.text
    assert shared.post("/", {"inputs": "Hi", "normalize": True}).json()[0] == pytest.approx(
        ask(shared, "feature-extraction", "Hi")[0]
    )


@pytest.mark.parametrize(
    ("model", "inputs", "key"),
    [
        ("writer", "Hi", "generated_text"),
        ("mood", "Hi", "label"),
        ("topics", "Hi", "label"),
        ("reader", DEEP, "answer"),
        ("filler", "a [MASK]", "token_str"),
        ("tagger", "Hi 42", "entity_group"),
        ("judge", "Hi", "label"),
        ("ranker", "Hi", "label"),
    ],
)
def test_a_model_s_address_does_what_the_model_is_made_for(
    shared: Service, model: str, inputs: Any, key: str
) -> None:
    answer = shared.post(f"/models/{model}", {"inputs": inputs})
    assert answer.status_code == 200, answer.text
    assert f'"{key}"' in answer.text
    assert len(shared.post("/models/sentences", {"inputs": "Hi"}).json()[0]) == 8


def test_a_field_of_several_tasks_names_none_and_one_of_another_task_that(shared: Service) -> None:
    def post(parameters: dict[str, Any]) -> httpx.Response:
        return shared.post("/models/mood", {"inputs": "Hi", "parameters": parameters})

    assert "label" in post({"top_k": 1}).json()[0][0]
    refused(post({"truncate": 1}), "truncate")
    assert "cannot generate, only classify" in refused(post({"seed": 1}), "model")


def test_deep_nests_are_refused_as_any_other_shape(shared: Service) -> None:
    nest: Any = "Hi"
    for _ in range(100):
        nest = [nest]
    for path in ("/", "/models/mood", "/models/mood/pipeline/text-classification", "/pipeline/fill-mask"):
        refused(shared.post(path, {"inputs": nest}), "inputs")


def test_unknown_models_and_tasks_are_told_what_there_is(shared: Service) -> None:
    assert "writer" in refused(shared.post("/models/org/name", {"inputs": "Hi"}), "org/name", 404)
    assert "fill-mask" in refused(shared.post("/models/mood/pipeline/sing", {"inputs": "Hi"}), "sing", 404)
    path = "/models/mood/pipeline/question-answering"
    assert "only classify" in refused(shared.post(path, {"inputs": DEEP}), "model")


def test_overload_and_failures_have_their_words(service: Service) -> None:
    for failure, status, word in (
        (Overloaded("full", retry_after=2), 429, "overloaded"),
        (EngineFailed("broken"), 500, "generation"),
    ):
        service.on_loop(lambda failure=failure: setattr(service.engine, "failure", failure))  # type: ignore[misc]
        answer = service.post("/models/mood", {"inputs": "Hi"})
        assert (answer.status_code, answer.json()["error_type"]) == (status, word)
    not_json = service.client.post("/", content=b"{", headers={"Content-Type": "application/json"})
    refused(not_json, "JSON")
    refused(service.client.post("/", content=b"Hi"), "JSON", 415)
