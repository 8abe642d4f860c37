"""Vectors and similarities on Hugging Face's routes."""

import base64
from dataclasses import replace

import numpy as np
import pytest

from app.engine.protocol import EncodeRequest
from app.tasks.served import Served
from tests.api.conftest import LIMITS, Service
from tests.api.test_huggingface import ask, refused


def test_vectors_are_nested_also_for_one_text(shared: Service) -> None:
    (row,) = ask(shared, "feature-extraction", "Hi", normalize=False)
    raw = np.array(row, "<f4")
    assert np.linalg.norm(raw) == 2, "a token counts in the feature of its number, modulo 8"
    unit = raw / 2
    np.testing.assert_allclose(ask(shared, "feature-extraction", "Hi"), [unit], atol=1e-6)
    np.testing.assert_allclose(
        ask(shared, "feature-extraction", ["Hi", "Hi"], parameters={}), [unit] * 2, atol=1e-6
    )
    cut = ask(shared, "feature-extraction", "Hi", dimensions=3)
    np.testing.assert_allclose(cut, [raw[:3] / np.linalg.norm(raw[:3])], atol=1e-6)
    packed = ask(shared, "feature-extraction", "Hi", normalize=False, encoding_format="base64")
    assert packed == [base64.b64encode(raw.astype("<f4").tobytes()).decode()]


def test_a_prompt_is_named_by_its_use(served: list[Served]) -> None:
    (sentences,) = (one for one in served if one.name == "sentences")
    running = Service([replace(sentences, prompts={"query": "find: "})], LIMITS)
    try:
        ask(running, "feature-extraction", ["a"], prompt_name="query")
        (request,) = running.engine.requests
        assert isinstance(request, EncodeRequest)
        assert sentences.tokenizer.decode(request.ids) == "find: a"
        refused(running.post("/", {"inputs": "a", "prompt_name": "passage"}), "prompt_name")
    finally:
        running.close()


@pytest.mark.parametrize(("side", "first"), [("right", "a"), ("left", "b"), (None, "a")])
def test_long_texts_are_cut_on_the_side_that_is_asked_for(
    service: Service, side: str | None, first: str
) -> None:
    text = "a" * 80 + "b" * 80
    refused(service.post("/pipeline/feature-extraction", {"inputs": text}), "inputs")
    ask(service, "feature-extraction", text, truncate=True, truncation_direction=side)
    (request,) = service.engine.requests
    assert isinstance(request, EncodeRequest)
    decoded = service.engine.served["sentences"].tokenizer.decode(request.ids, skip_special_tokens=False)
    assert decoded.startswith("[CLS]" + first * 2)
    assert decoded.endswith("[SEP]")
    assert len(request.ids) == 64


def test_sentences_are_compared_by_cosine(shared: Service) -> None:
    item = {"source_sentence": "a", "sentences": ["b", "c"]}
    assert ask(shared, "sentence-similarity", item) == pytest.approx([2 / 3, 2 / 3], abs=1e-6)
    assert np.shape(ask(shared, "sentence-similarity", [item, item])) == (2, 2)
