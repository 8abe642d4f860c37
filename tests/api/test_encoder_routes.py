"""What the routes for the request's own labels, entities, reranking and token ids answer."""

import pytest

from app.engine.protocol import EncodeRequest
from tests.api.conftest import Service


def encoded(service: Service) -> list[EncodeRequest]:
    return [request for request in service.engine.requests if isinstance(request, EncodeRequest)]


def test_labels_of_the_request_are_read_in_a_template(service: Service) -> None:
    body = {"text": ["new art", "old law"], "labels": ["law", "art", "war"]}
    answer = service.post("/v1/classify", body).json()
    assert (answer["model"], answer["method"]) == ("judge", "nli")
    first, second = answer["results"]
    assert [one["label"] for one in first] == ["art", "law", "war"], "equals as they came"
    assert [one["label"] for one in second] == ["law", "art", "war"]
    assert sum(one["score"] for one in first) == pytest.approx(1)
    decode = service.engine.served["judge"].tokenizer.decode
    read = [decode(request.ids, skip_special_tokens=False) for request in encoded(service)]
    assert read[0] == "[CLS]new art[SEP]This example is law.[SEP]"
    assert len(read) == 6
    assert answer["usage"]["prompt_tokens"] == sum(len(request.ids) for request in encoded(service))
    asked = body | {"hypothesis_template": "{}, {0} or {}?", "top_k": 1, "multi_label": True}
    results = service.post("/v1/classify", asked).json()["results"]
    assert [[one["label"] for one in row] for row in results] == [["art"], ["law"]]
    assert results[0][0]["score"] == pytest.approx(0.9526, abs=1e-4)
    last = encoded(service)[-1].ids
    assert decode(last, skip_special_tokens=False) == "[CLS]old law[SEP]war, {0} or war?[SEP]"
    metrics = service.client.get("/metrics").text
    assert 'quartet_requests_total{model="judge",outcome="ok",task="zero-shot"} 2.0' in metrics


@pytest.mark.parametrize("text", ["", "x", "日", "a [SEP] b"])
def test_any_text_may_be_labelled(shared: Service, text: str) -> None:
    for model in ("judge", "sentences"):
        body = {"text": text, "labels": ["one"], "model": model}
        (result,) = shared.post("/v1/classify", body).json()["results"]
        assert [one["label"] for one in result] == ["one"]
        assert 0 <= result[0]["score"] < 1, "one label by itself is no certainty"


def test_embeddings_are_told_as_such(shared: Service) -> None:
    body = {"text": "abcabc", "labels": ["xyz", "abc"], "model": "sentences"}
    answer = shared.post("/v1/classify", body).json()
    assert answer["method"] == "embedding"
    assert [one["label"] for one in answer["results"][0]] == ["abc", "xyz"]
    assert sum(one["score"] for one in answer["results"][0]) == pytest.approx(1)
    assert answer["usage"]["prompt_tokens"] == 8 + 5 + 5


def test_a_pair_at_the_limit_is_read_and_one_over_it_cut_when_told(service: Service) -> None:
    """64 tokens: three special ones, one of the label."""
    body = {"labels": ["a"], "hypothesis_template": "{}"}
    whole = service.post("/v1/classify", body | {"text": "x" * 60}).json()
    assert whole["usage"]["prompt_tokens"] == 64
    over = body | {"text": "y" + "x" * 1000}
    refused = service.post("/v1/classify", over)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "too_long")
    assert service.post("/v1/classify", over | {"truncate": True}).json()["usage"]["prompt_tokens"] == 64
    decode = service.engine.served["judge"].tokenizer.decode
    last = decode(encoded(service)[-1].ids, skip_special_tokens=False)
    assert last == f"[CLS]y{'x' * 59}[SEP]a[SEP]", "the label is whole"
    long_label = body | {"text": "x", "labels": ["a" * 62], "truncate": True}
    assert service.post("/v1/classify", long_label).json()["error"]["param"] == "labels"


def test_a_model_without_entailment_says_what_it_takes(shared: Service) -> None:
    body = {"text": "Hi", "labels": ["a"], "model": "mood"}
    error = shared.post("/v1/classify", body).json()["error"]
    assert error["code"] == "unsupported_task"
    assert error["message"].startswith("'mood' cannot zero-shot, only classify: it takes an encoder")
    assert "entailment" in error["message"]


@pytest.mark.parametrize(
    ("aggregation", "entities"),
    [
        ("none", [("B-NUM", "1"), ("I-NUM", "8"), ("B-NUM", "7")]),
        ("simple", [("NUM", "18"), ("NUM", "7")]),
        ("first", [("NUM", "18"), ("NUM", "7")]),
    ],
)
def test_entities_stand_where_they_say(
    shared: Service, aggregation: str, entities: list[tuple[str, str]]
) -> None:
    text = "Ünïcode 世界 18 or 7"
    body = {"text": [text, ""], "aggregation": aggregation}
    answer = shared.post("/v1/ner", body).json()
    first, second = answer["entities"]
    assert answer["model"] == "tagger"
    assert [(one["entity"], one["text"]) for one in first] == entities
    assert all(text[one["start"] : one["end"]] == one["text"] for one in first)
    assert all(set(one) == {"entity", "score", "text", "start", "end"} for one in first)
    assert all(0.9 < one["score"] <= 1 for one in first)
    assert second == []


def test_what_is_no_entity_is_told_when_asked(shared: Service) -> None:
    body = {"text": "ab 1", "ignore_labels": ["NUM"]}
    (found,) = shared.post("/v1/ner", body).json()["entities"]
    assert [(one["entity"], one["text"]) for one in found] == [("O", "ab ")]


@pytest.mark.parametrize("more", [{}, {"aggregation": "none"}, {"stride": 10}, {"stride": 0}])
def test_no_entity_of_a_long_text_is_lost(service: Service, more: dict[str, object]) -> None:
    text = "so " * 19 + "1 " + "so " * 40 + "2 " + "so " * 30 + "3"
    (found,) = service.post("/v1/ner", {"text": text} | more).json()["entities"]
    assert [one["text"] for one in found] == ["1", "2", "3"]
    assert all(text[one["start"] : one["end"]] == one["text"] for one in found)
    assert len(encoded(service)) > 3
    assert all(len(request.ids) <= 64 for request in encoded(service))


def test_an_entity_across_windows_is_one(shared: Service) -> None:
    """Without a stride; with one each window has its own, and of two that overlap the longer one stays."""
    text = "x" * 50 + "7" * 100
    (found,) = shared.post("/v1/ner", {"text": text}).json()["entities"]
    assert [(one["entity"], one["start"], one["end"]) for one in found] == [("NUM", 50, 150)]
    (strided,) = shared.post("/v1/ner", {"text": text, "stride": 20}).json()["entities"]
    assert [(one["start"], one["end"]) for one in strided] == [(84, 146)]


@pytest.mark.parametrize("model", ["ranker", "sentences"])
def test_documents_come_best_first(shared: Service, model: str) -> None:
    documents = ["zzz", {"text": "the old house"}, "house"]
    body = {"query": "the old house", "documents": documents, "model": model}
    results = shared.post("/v1/rerank", body).json()["results"]
    assert [one["index"] for one in results] == [1, 2, 0]
    assert all(set(one) == {"index", "relevance_score"} for one in results)
    scores = [one["relevance_score"] for one in results]
    assert scores == sorted(scores, reverse=True)
    cut = shared.post("/v1/rerank", body | {"top_n": 1, "return_documents": True}).json()["results"]
    assert cut == [results[0] | {"document": {"text": "the old house"}}]


def test_cross_encoders_come_before_embeddings(shared: Service) -> None:
    answer = shared.post("/v1/rerank", {"query": "", "documents": ["", "x"]}).json()
    assert answer["model"] == "ranker"
    assert [one["index"] for one in answer["results"]] == [0, 1]
    assert shared.client.get("/v1/models/ranker").json()["tasks"] == ["rerank", "classify"]
    assert shared.client.get("/v1/models/sentences").json()["tasks"] == ["embed", "zero-shot", "rerank"]
    assert shared.post("/v1/classify", {"text": "x"}).json()["model"] == "mood"


def test_a_document_too_long_is_cut_when_told(service: Service) -> None:
    body = {"query": "abc", "documents": ["x" * 200]}
    refused = service.post("/v1/rerank", body)
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "too_long")
    assert service.post("/v1/rerank", body | {"truncate": True}).json()["usage"]["prompt_tokens"] == 64
    decode = service.engine.served["ranker"].tokenizer.decode
    assert decode(encoded(service)[0].ids, False) == f"[CLS]abc[SEP]{'x' * 58}[SEP]"


def test_texts_to_token_ids_and_back(shared: Service) -> None:
    one = shared.post("/v1/tokenize", {"text": "Hé", "model": "mood", "return_token_strs": True}).json()
    assert one["model"] == "mood"
    assert (one["count"], one["token_strs"]) == (5, ["[CLS]", "H", "Ã", "©", "[SEP]"])
    assert one["usage"]["total_tokens"] == 0
    plain = {"text": ["Hé", ""], "model": "mood", "add_special_tokens": False}
    many = shared.post("/v1/tokenize", plain).json()
    assert (many["tokens"], many["count"]) == ([one["tokens"][1:4], []], [3, 0])
    assert "token_strs" not in many
    back = {"tokens": one["tokens"], "model": "mood"}
    assert shared.post("/v1/detokenize", back).json()["text"] == "Hé"
    kept = shared.post("/v1/detokenize", back | {"skip_special_tokens": False}).json()
    assert kept["text"] == "[CLS]Hé[SEP]"
    rows = {"tokens": [one["tokens"], []], "model": "mood"}
    assert shared.post("/v1/detokenize", rows).json()["text"] == ["Hé", ""]
    assert shared.post("/v1/detokenize", {"tokens": []}).json()["text"] == ""


def test_the_first_model_s_tokens_are_told_without_a_name(service: Service) -> None:
    answer = service.post("/v1/tokenize", {"text": "x" * 10_000}).json()
    assert (answer["model"], answer["count"]) == ("writer", 10_000), "nothing is cut"
    unknown = service.post("/v1/tokenize", {"text": "x", "model": "nobody"})
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "model_not_found")
    assert service.engine.requests == []
