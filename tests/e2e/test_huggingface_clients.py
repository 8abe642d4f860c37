"""Hugging Face's own clients against the whole service with the zoo's models."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
from huggingface_hub import AsyncInferenceClient, InferenceClient
from huggingface_hub.errors import ValidationError

from model.config import Head
from model.loading import save_model
from tests.api.folders import byte_tokenizer
from tests.e2e.conftest import Process
from tests.tiny import BERT, T5, random_model

ZOO = Path(__file__).parents[2] / "model" / "zoo"
CONTEXT = "The Analytical Engine was designed by Charles Babbage in 1837."


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """The zoo, the writer first and one name with a slash; and what the zoo lacks, at random."""
    root = tmp_path_factory.mktemp("models")
    folders = {"writer": ZOO / "writer", "org/translator": ZOO / "translator", "minilm": ZOO / "minilm"}
    folders["tagger"] = write_encoder(root / "tagger", "token-class", ("O", "B-PER", "I-PER"))
    folders["judge"] = write_encoder(
        root / "judge", "sequence-class", ("contradiction", "neutral", "entailment")
    )
    folders["summarizer"] = write_summarizer(root / "summarizer")
    models = [part for name, folder in folders.items() for part in ("--model", f"{name}={folder}")]
    adapters = [
        part
        for name in ("qa", "sentiment", "fill-mask")
        for part in ("--adapter", f"{name}=minilm:{ZOO / name}")
    ]
    process = Process(*models, *adapters, "--kv-cache-memory", str(32 << 20))
    yield process
    assert process.stop() == 0


def write_encoder(folder: Path, head: Head, labels: tuple[str, ...]) -> Path:
    tokenizer = byte_tokenizer(pair_template=True)
    size = tokenizer.get_vocab_size()
    save_model(random_model(BERT, vocab_size=size, max_positions=256, head=head, labels=labels), folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"cls_token": "[CLS]"}')
    return folder


def write_summarizer(folder: Path) -> Path:
    tokenizer = byte_tokenizer(pair_template=False)
    size, says = tokenizer.get_vocab_size(), {"summarization": {"prefix": "summarize: ", "max_length": 40}}
    save_model(random_model(T5, vocab_size=size, extra={"task_specific_params": says}), folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": "</s>"}')
    return folder


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client asks nobody but our service here; offline it does not even that."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


@pytest.fixture
def at(zoo: Process) -> Callable[[str], InferenceClient]:
    """A client for a path of the service."""
    return lambda path: InferenceClient(str(zoo.client.base_url).rstrip("/") + path)


At = Callable[[str], InferenceClient]


@pytest.mark.parametrize("path", ["/models/sentiment", "/models/sentiment/pipeline/text-classification"])
def test_text_classification(at: At, path: str) -> None:
    best, other = at(path).text_classification("What a wonderful film, I loved it!")
    assert (best.label, other.label) == ("positive", "negative")
    assert best.score > 0.5
    assert best.score + other.score == pytest.approx(1)
    raw = at(path).text_classification("What a wonderful film!", function_to_apply="none", top_k=1)
    assert [one.label for one in raw] == ["positive"]


@pytest.mark.parametrize("path", ["", "/models/judge", "/pipeline/zero-shot-classification"])
@pytest.mark.parametrize("multi_label", [False, True])
def test_zero_shot_classification(at: At, path: str, multi_label: bool) -> None:
    labels = ["music", "weather", "money"]
    found = at(path).zero_shot_classification(
        "I lost my card.", labels, multi_label=multi_label, hypothesis_template="It is about {}."
    )
    assert sorted(one.label for one in found) == sorted(labels)
    scores = [one.score for one in found]
    assert scores == sorted(scores, reverse=True)
    assert (sum(scores) == pytest.approx(1)) is not multi_label


@pytest.mark.parametrize("path", ["/models/tagger", "/pipeline/token-classification"])
def test_token_classification(at: At, path: str) -> None:
    text = "Ada Lovelace"
    tokens = at(path).token_classification(text, aggregation_strategy="none", ignore_labels=[])
    assert [(one.start, one.end) for one in tokens] == [(i, i + 1) for i in range(len(text))]
    assert {one.entity for one in tokens} <= {"O", "B-PER", "I-PER"}
    groups = at(path).token_classification(text, ignore_labels=["none"], stride=16)
    assert "".join(text[one.start : one.end] for one in groups) == text
    assert {one.entity_group for one in groups} <= {"O", "PER"}
    assert at(path).token_classification("Ada " * 100, aggregation_strategy="simple", ignore_labels=[])


@pytest.mark.parametrize("path", ["", "/models/qa", "/pipeline/question-answering"])
def test_question_answering(at: At, path: str) -> None:
    found = at(path).question_answering(question="Who designed the engine?", context=CONTEXT)
    assert not isinstance(found, list)
    assert found.answer == "Charles Babbage" == CONTEXT[found.start : found.end]
    several = at(path).question_answering(
        question="Who designed the engine?",
        context=CONTEXT * 20,
        top_k=2,
        doc_stride=32,
        max_seq_len=64,
        max_answer_len=5,
        max_question_len=16,
        handle_impossible_answer=True,
        align_to_words=True,
    )
    assert isinstance(several, list)
    assert len(several) == 2


@pytest.mark.parametrize("path", ["/models/fill-mask", "/pipeline/fill-mask"])
def test_fill_mask(at: At, path: str) -> None:
    found = at(path).fill_mask("Paris is the [MASK] of France.", top_k=3)
    words = [one.token_str for one in found]
    assert [one.sequence for one in found] == [f"paris is the {word} of france." for word in words]
    assert found[0].score > found[1].score > found[2].score
    chosen = at(path).fill_mask("Paris is the [MASK] of France.", targets=[words[2], words[0]])
    assert [one.token_str for one in chosen] == [words[0], words[2]]
    assert [one.token for one in chosen] == [found[0].token, found[2].token]
    assert [one.score for one in chosen] == pytest.approx([found[0].score, found[2].score], abs=1e-5)


@pytest.mark.parametrize("path", ["/models/minilm", "/pipeline/feature-extraction"])
def test_feature_extraction(at: At, path: str) -> None:
    one = at(path).feature_extraction("A sentence.")
    many = at(path).feature_extraction(["A sentence.", "Another."], normalize=True, truncate=True)
    assert (one.shape, many.shape) == ((1, 384), (2, 384))
    np.testing.assert_allclose(many[0], one[0], atol=1e-4)
    np.testing.assert_allclose(np.linalg.norm(many, axis=1), 1, atol=1e-5)
    assert at(path).feature_extraction("A sentence.", dimensions=8).shape == (1, 8)


@pytest.mark.parametrize("path", ["", "/models/minilm", "/models/minilm/pipeline/sentence-similarity"])
def test_sentence_similarity(at: At, path: str) -> None:
    near, far = at(path).sentence_similarity(
        "A dog runs across the field.",
        other_sentences=["A puppy is running over the grass.", "The bank raised its interest rates."],
    )
    assert 1 > near > far > -1


@pytest.mark.parametrize("path", ["", "/models/org/translator", "/pipeline/translation"])
def test_translation(at: At, path: str) -> None:
    german = at(path).translation("The house is small.", src_lang="en", tgt_lang="de").translation_text
    assert "Haus" in german
    beams = at(path).translation(
        "The house is small.", tgt_lang="de", src_lang="en", generate_parameters={"num_beams": 2}
    )
    assert "Haus" in beams.translation_text


@pytest.mark.parametrize("path", ["/models/summarizer", "/pipeline/summarization"])
def test_summarization(at: At, path: str) -> None:
    settings = {"max_new_tokens": 8, "min_new_tokens": 8, "num_beams": 2}
    text = (
        at(path)
        .summarization(
            "A house.",
            generate_parameters=settings,
            truncation="do_not_truncate",
            clean_up_tokenization_spaces=False,
        )
        .summary_text
    )
    assert 0 < len(text) <= 8
    assert at(path).summarization("A house.").summary_text is not None


@pytest.mark.parametrize("path", ["", "/models/writer", "/pipeline/text-generation"])
def test_text_generation(at: At, path: str) -> None:
    client = at(path)
    text = client.text_generation("The old house", max_new_tokens=12)
    assert text
    whole = client.text_generation("The old house", max_new_tokens=12, return_full_text=True)
    assert whole == "The old house" + text
    assert "".join(client.text_generation("The old house", max_new_tokens=12, stream=True)) == text
    told = client.text_generation(
        "The old house", max_new_tokens=12, details=True, decoder_input_details=True, top_n_tokens=2
    )
    assert told.generated_text == text
    assert told.details is not None
    assert (told.details.finish_reason, told.details.generated_tokens) == ("length", 12)
    assert "".join(token.text for token in told.details.tokens) == text
    assert "".join(token.text for token in told.details.prefill).endswith("The old house")
    tops: Any = told.details.top_tokens  # the client leaves these as they came
    for token, (first, second) in zip(told.details.tokens, tops, strict=True):
        assert (first["id"], first["logprob"]) == (token.id, token.logprob)
        assert second["logprob"] <= first["logprob"]
    *_, last = client.text_generation("The old house", max_new_tokens=12, stream=True, details=True)
    assert last.generated_text == text
    assert last.details is not None
    assert (last.details.finish_reason, last.details.input_length) == ("length", len(told.details.prefill))


def test_text_generation_draws_and_keeps_to_a_grammar(at: At) -> None:
    client = at("")
    settings: dict[str, Any] = {"max_new_tokens": 12, "do_sample": True, "seed": 4, "temperature": 0.8}
    first = client.text_generation("The old house", **settings, top_k=50, top_p=0.9)
    assert client.text_generation("The old house", **settings, top_k=50, top_p=0.9) == first
    best = client.text_generation("The old house", **settings, best_of=2, details=True)
    assert best.details is not None
    assert best.details.best_of_sequences is not None
    assert len(best.details.best_of_sequences) == 1
    grammar: Any = {"type": "regex", "value": "(red|white){1,2}"}
    told = client.text_generation("The house is", grammar=grammar, details=True)
    assert told.generated_text in ("red", "white", "redred", "redwhite", "whitered", "whitewhite")
    assert told.details is not None
    assert told.details.finish_reason == "eos_token"
    *_, last = client.text_generation("The house is", grammar=grammar, details=True, stream=True)
    assert last.generated_text == told.generated_text


def test_what_cannot_be_kept_is_a_validation_error(at: At) -> None:
    with pytest.raises(ValidationError, match="watermark"):
        at("").text_generation("Hi", watermark=True)
    grammar: Any = {"type": "regex", "value": "("}
    with pytest.raises(ValidationError, match="regex"):
        at("").text_generation("Hi", grammar=grammar)


def test_the_asynchronous_client_gets_the_same(zoo: Process, at: At) -> None:
    async def ask() -> list[Any]:
        async with AsyncInferenceClient(str(zoo.client.base_url)) as client:
            stream = await client.text_generation("The old house", max_new_tokens=8, stream=True)
            pieces = [text async for text in stream]
            return [
                "".join(pieces),
                await client.text_generation("The old house", max_new_tokens=8),
                await client.question_answering(question="Who designed the engine?", context=CONTEXT),
                await client.sentence_similarity("a", other_sentences=["b"]),
                await client.translation("The house is small.", src_lang="en", tgt_lang="de"),
            ]

    streamed, text, answer, similarity, translation = asyncio.run(ask())
    assert streamed == text == at("").text_generation("The old house", max_new_tokens=8)
    assert answer == at("").question_answering(question="Who designed the engine?", context=CONTEXT)
    assert similarity == pytest.approx(at("").sentence_similarity("a", other_sentences=["b"]), abs=1e-5)
    assert translation == at("").translation("The house is small.", src_lang="en", tgt_lang="de")
