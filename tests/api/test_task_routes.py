"""What each native route answers."""

import json

import pytest

from app.engine.protocol import GenerateRequest
from tests.api.conftest import Service
from tests.api.fake_engine import TEXT


def test_generate_answers_one_prompt_or_a_list(shared: Service) -> None:
    answer = shared.post("/v1/generate", {"prompt": "Hi", "max_tokens": 6, "model": "writer"}).json()
    assert answer == {
        "model": "writer",
        "results": [{"text": TEXT[:4], "finish_reason": "length"}],
        "usage": {"prompt_tokens": 2, "completion_tokens": 6, "total_tokens": 8, "cached_tokens": 0},
    }
    many = shared.post("/v1/generate", {"prompt": ["a", "bc"], "max_tokens": 4, "n": 2, "seed": 7}).json()
    assert many["model"] == "writer"
    assert [result["text"] for result in many["results"]] == [TEXT[:3]] * 4
    assert many["usage"]["prompt_tokens"] == 3


@pytest.mark.parametrize("more", [{}, {"n": 3}, {"stop": "never"}, {"n": 2, "stop": "never"}])
def test_what_of_a_prompt_was_cached_is_counted_once(service: Service, more: dict[str, object]) -> None:
    service.on_loop(lambda: setattr(service.engine, "cached_tokens", 3))
    body = {"prompt": ["Hello", "there"], "max_tokens": 2, "seed": 1, "model": "writer"}
    usage = service.post("/v1/generate", body | more).json()["usage"]
    assert (usage["prompt_tokens"], usage["cached_tokens"]) == (10, 6)
    assert 'quartet_tokens_total{kind="cached",model="writer"} 6.0' in service.client.get("/metrics").text
    alone = service.post("/v1/generate", body | more | {"prompt": "Hello"}).json()["usage"]
    assert alone["cached_tokens"] == 3


def test_generate_stops_before_a_stop_string(service: Service) -> None:
    body = {"prompt": "Hi", "max_tokens": 60, "stop": ["Stop", "never"]}
    answer = service.post("/v1/generate", body).json()
    before = TEXT[: TEXT.index("Stop")]
    assert answer["results"] == [{"text": before, "finish_reason": "stop"}]
    assert answer["usage"]["completion_tokens"] == len((before + "Stop").encode())
    assert service.engine.num_aborted == 1


def test_generate_tells_logprobs_when_asked(shared: Service) -> None:
    body = {"prompt": "Hi", "max_tokens": 2, "logprobs": 1}
    (first, second) = shared.post("/v1/generate", body).json()["results"][0]["logprobs"]
    assert (first["token"], second["token"], first["logprob"]) == ("G", "r", -0.5)
    assert first["top"] == [{"token": "G", "id": first["id"], "logprob": -0.5}]


def test_a_size_of_ngrams_reaches_the_engine(service: Service) -> None:
    for path in ("/v1/generate", "/v1/completions"):
        assert service.post(path, {"prompt": "Hi", "no_repeat_ngram_size": 64}).status_code == 200
    assert service.post("/v1/translate", {"text": "Hi", "target": "de", "no_repeat_ngram_size": 2}).is_success
    sizes = [
        request.params.no_repeat_ngram_size
        for request in service.engine.requests
        if isinstance(request, GenerateRequest)
    ]
    assert sizes == [64, 64, 2]


def test_a_prompt_s_tokens_are_told_from_the_second_on(shared: Service) -> None:
    body = {"prompt": ["Hi!", "a"], "max_tokens": 2, "prompt_logprobs": 1}
    many = shared.post("/v1/generate", body).json()["results"]
    first, second, third = many[0]["prompt_logprobs"]
    assert first is None
    assert (second["token"], second["logprob"], third["token"], third["logprob"]) == ("i", -1.0, "!", -0.5)
    assert [top["logprob"] for top in third["top"]] == [-0.1]
    assert many[1]["prompt_logprobs"] == [None]
    (stopped,) = shared.post("/v1/generate", body | {"prompt": "Hi!", "stop": "r"}).json()["results"]
    assert stopped["prompt_logprobs"] == many[0]["prompt_logprobs"]


def test_an_echo_has_the_prompt_s_log_probabilities_before_the_answer_s(shared: Service) -> None:
    body = {
        "model": "writer",
        "prompt": "Hi!",
        "max_tokens": 2,
        "echo": True,
        "logprobs": 1,
        "temperature": 0,
    }
    (choice,) = shared.post("/v1/completions", body).json()["choices"]
    assert choice["text"] == "Hi!Gr"
    told = choice["logprobs"]
    assert told["tokens"] == ["H", "i", "!", "G", "r"]
    assert told["token_logprobs"] == [None, -1.0, -0.5, -0.5, -0.5]
    assert told["top_logprobs"][0] is None
    assert told["text_offset"] == [0, 1, 2, 3, 4]
    special = sorted(shared.engine.served["writer"].tokenizer.special_ids)[0]
    ids = [special, *shared.engine.prompts()[-1]]
    (marked,) = shared.post("/v1/completions", body | {"prompt": ids}).json()["choices"]
    assert marked["text"] == "Hi!Gr"
    assert marked["logprobs"]["text_offset"] == [0, 0, 1, 2, 3, 4], "a special token is not in the text"
    (plain,) = shared.post("/v1/completions", body | {"echo": False, "prompt_logprobs": 0}).json()["choices"]
    assert [entry and entry["token"] for entry in plain["prompt_logprobs"]] == [None, "i", "!"]
    assert plain["logprobs"]["tokens"] == ["G", "r"]


def test_beams_answer_the_best_texts_of_one_search(service: Service) -> None:
    body = {"prompt": ["Hi", "Ho"], "max_tokens": 6, "num_beams": 3, "n": 2, "stop": "ü"}
    answer = service.post("/v1/generate", body).json()
    assert [result["text"] for result in answer["results"]] == ["Gr"] * 4
    assert [result["finish_reason"] for result in answer["results"]] == ["stop"] * 4
    assert answer["usage"]["prompt_tokens"] == 4, "each prompt once"
    plain = service.post("/v1/generate", body | {"stop": None, "logprobs": 0}).json()
    assert [len(result["logprobs"]) for result in plain["results"]] == [6, 5, 6, 5]
    assert [result["finish_reason"] for result in plain["results"]] == ["length", "stop"] * 2
    assert plain["usage"]["completion_tokens"] == 22
    request = service.engine.requests[0]
    assert isinstance(request, GenerateRequest)
    assert (request.params.num_beams, request.params.num_return_sequences, request.params.temperature) == (
        3,
        2,
        0,
    )


def test_beams_are_for_openai_s_routes_and_translations_too(service: Service) -> None:
    completion = {
        "model": "writer",
        "prompt": "Hi",
        "max_tokens": 5,
        "num_beams": 2,
        "n": 2,
        "early_stopping": "never",
    }
    choices = service.post("/v1/completions", completion).json()["choices"]
    assert [choice["index"] for choice in choices] == [0, 1]
    assert [choice["finish_reason"] for choice in choices] == ["length", "stop"]
    text = {
        "text": "One. Two.",
        "target": "de",
        "max_tokens": 4,
        "num_beams": 2,
        "n": 2,
        "length_penalty": 0.5,
    }
    translations = service.post("/v1/translate", text).json()["translations"]
    assert len(translations) == 1
    assert len(translations[0]["alternatives"]) == 1
    assert len(service.engine.requests) == 3, "one search a prompt and a sentence"


def test_translate_keeps_spacing_and_leaves_what_has_no_letters(service: Service) -> None:
    service.on_loop(lambda: setattr(service.engine, "text", "X."))
    body = {"text": ["One thing.  Two things.\n\n42\n", "7 %"], "target": "de", "max_tokens": 2}
    answer = service.post("/v1/translate", body).json()
    assert [t["text"] for t in answer["translations"]] == ["X.  X.\n\n42\n", "7 %"]
    assert answer["translations"][0]["score"] == pytest.approx(0.6065, abs=1e-4)
    assert answer["translations"][1]["score"] == 1.0
    decode = service.engine.served["translator"].tokenizer.decode
    assert [decode(row) for row in service.engine.prompts()] == ["<2de> One thing.", "<2de> Two things."]


def test_translate_gives_alternatives_and_whole_texts(service: Service) -> None:
    body = {
        "text": "One. Two.",
        "target": "fr",
        "source": "en",
        "n": 3,
        "split_sentences": False,
        "max_tokens": 3,
    }
    translation = service.post("/v1/translate", body).json()["translations"][0]
    assert len(translation["alternatives"]) == 2
    assert len(service.engine.requests) == 3


def test_classify_ranks_labels(shared: Service) -> None:
    body = {"model": "mood", "text": ["fine", "so so"], "top_k": 2}
    answer = shared.post("/v1/classify", body).json()
    assert [label["label"] for label in answer["results"][0]] == ["good", "fair"]
    whole = shared.post("/v1/classify", {"model": "mood", "text": "fine"}).json()
    assert sum(label["score"] for label in whole["results"][0]) == pytest.approx(1.0)
    several = shared.post("/v1/classify", {"model": "topics", "text": "fine"}).json()
    assert [label["score"] for label in several["results"][0]] == pytest.approx([0.7310586, 0.5])


def test_classify_cuts_only_when_told(shared: Service) -> None:
    body = {"model": "mood", "text": "x" * 100}
    refused = shared.post("/v1/classify", body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "too_long")
    assert shared.post("/v1/classify", body | {"truncate": True}).json()["usage"]["prompt_tokens"] == 64


def test_qa_offsets_are_characters_of_the_context(shared: Service) -> None:
    context = "Ünïcode 世界 " * 20 + "in 1843 it was done. " + "nothing more " * 20
    body = {"question": "When?", "context": context, "doc_stride": 16}
    answer = shared.post("/v1/qa", body).json()["answers"][0][0]
    assert answer["answer"] == "1843"
    assert context[answer["start"] : answer["end"]] == "1843"
    assert 0 < answer["score"] <= 1
    several = {
        "inputs": [{"question": "When?", "context": "in 12 or 13"}],
        "top_k": 2,
        "allow_no_answer": True,
    }
    assert [a["answer"] for a in shared.post("/v1/qa", several).json()["answers"][0]] == ["12", "13"]


def test_qa_says_that_there_is_no_answer(shared: Service) -> None:
    body = {"question": "When?", "context": "", "allow_no_answer": True}
    assert shared.post("/v1/qa", body).json()["answers"] == [
        [{"answer": "", "score": 1.0, "start": 0, "end": 0}]
    ]
    assert shared.post("/v1/qa", {"question": "When?", "context": ""}).json()["answers"] == [[]]


def test_fill_mask_puts_the_token_in_place(shared: Service) -> None:
    answer = shared.post("/v1/fill-mask", {"text": "a [MASK] b", "top_k": 2}).json()
    first = answer["results"][0][0]
    assert len(answer["results"][0]) == 2
    assert first["text"] == f"a {first['token']} b"
    assert shared.post("/v1/fill-mask", {"text": "no mask"}).json()["error"]["param"] == "text"
    assert shared.post("/v1/fill-mask", {"text": "[MASK] [MASK]"}).status_code == 400


def test_a_list_of_results_comes_in_the_order_of_the_texts(shared: Service) -> None:
    body = {"inputs": [{"question": "q", "context": f"so {i} it is"} for i in range(20)]}
    answers = shared.post("/v1/qa", body).json()["answers"]
    assert [a[0]["answer"] for a in answers] == [str(i) for i in range(20)]


def test_answers_are_utf8_json(shared: Service) -> None:
    response = shared.post("/v1/generate", {"prompt": "Hi", "max_tokens": 15})
    assert response.headers["content-type"] == "application/json"
    assert json.loads(response.content.decode("utf-8"))["results"][0]["text"] == "Grüße, 世界"
