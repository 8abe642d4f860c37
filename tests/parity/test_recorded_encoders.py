"""Entities, zero-shot classification and reranking against what the pipelines once answered, through HTTP.

`record_encoders.py` made what is under `recorded/`; the checkpoints take 64 tokens, and the last two of the fifty texts
are longer.
"""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from app.engine.protocol import Encoded, EncodeRequest, GenerateRequest, Hypotheses, ModelInfo, Tokens
from app.tasks.base import Usage
from app.tasks.entities import Aggregation
from app.tasks.ner import Ner, NerOptions
from app.tasks.served import read_served
from tests.e2e.conftest import Process
from tests.engine.test_engine import drain, make_engine
from tests.parity.test_recorded import EMBEDDINGS, INPUTS, ZOO, build, post, recorded

TASKS = {task: recorded(task) for task in ("ner", "zero-shot", "rerank")}
TEXTS: list[str] = TASKS["ner"]["texts"]
LIMIT = 64
TOLERANCE = 1e-5


def families(task: str) -> list[str]:
    return [name for name, value in TASKS[task].items() if isinstance(value, dict)]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    root = tmp_path_factory.mktemp("recorded")
    folders = {
        f"{task}-{family}": build(TASKS[task][family], root / f"{task}-{family}")
        for task in TASKS
        for family in families(task)
    }
    models = [
        part for name, path in {**folders, "minilm": ZOO}.items() for part in ("--model", f"{name}={path}")
    ]
    process = Process(*models, "--kv-cache-memory", str(16 << 20), "--dtype", "float32")
    yield process
    assert process.stop() == 0


def test_there_are_fifty_texts_with_the_limit_and_one_over_it() -> None:
    assert len(TEXTS) == len(TASKS["zero-shot"]["texts"]) == len(TASKS["rerank"]["documents"]) == 50
    assert [len(text.split()) for text in TEXTS[-3:]] == [LIMIT - 2, LIMIT - 1, 3 * LIMIT]
    assert {"", "x"} <= set(TEXTS)


@pytest.mark.parametrize("aggregation", ["none", "simple", "first", "average", "max"])
@pytest.mark.parametrize("family", families("ner"))
def test_entities(service: Process, family: str, aggregation: str) -> None:
    """The long texts with the stride of the record; the pipeline does not take one for "none"."""
    wanted = TASKS["ner"][family]["answers"]
    body = {"model": f"ner-{family}", "aggregation": aggregation}
    found = post(service, "ner", **body, text=TEXTS[:-2])["entities"]
    if aggregation != "none":
        found += post(service, "ner", **body, text=TEXTS[-2:], stride=TASKS["ner"]["stride"])["entities"]
    for text, got, answer in zip(TEXTS, found, wanted, strict=False):
        expected = answer[aggregation]
        assert [[one["entity"], one["start"], one["end"]] for one in got] == [
            [entity, start, end] for entity, _, start, end, *_ in expected
        ], text
        assert [one["score"] for one in got] == pytest.approx([one[1] for one in expected], abs=TOLERANCE)
        assert [one["text"] for one in got] == [text[one["start"] : one["end"]] for one in got]
    assert len(found) == (48 if aggregation == "none" else 50)


@pytest.mark.parametrize("aggregation", ["simple", "first"])
@pytest.mark.parametrize("family", families("ner"))
def test_words_of_entities(family: str, aggregation: Aggregation, tmp_path: Path) -> None:
    """What tokens decode to, which the native route does not tell."""
    task = in_process(build(TASKS["ner"][family], tmp_path / family))
    options = NerOptions(aggregation, stride=TASKS["ner"]["stride"])
    found = asyncio.run(task.run(TEXTS, options, Usage()))
    for text, got, answer in zip(TEXTS, found, TASKS["ner"][family]["answers"], strict=True):
        assert [one.word for one in got] == [one[4] for one in answer[aggregation]], text


class InProcess:
    """An engine without a process of its own."""

    def __init__(self, folder: Path) -> None:
        self._engine = make_engine({"m": folder}, token_budget=2048)

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Tokens]:
        raise NotImplementedError

    async def generate_many(self, requests: Sequence[GenerateRequest]) -> list[Tokens]:
        raise NotImplementedError

    async def search_many(self, requests: Sequence[GenerateRequest]) -> list[Hypotheses]:
        raise NotImplementedError

    async def encode_many(self, requests: Sequence[EncodeRequest]) -> list[Encoded]:
        for i, one in enumerate(requests):
            self._engine.add(
                EncodeRequest(id=i, model="m", ids=one.ids, type_ids=one.type_ids, output=one.output)
            )
        encoded: dict[int, Encoded] = {}
        drain(self._engine, {}, encoded)
        return [encoded[i] for i in range(len(requests))]


def in_process(folder: Path) -> Ner:
    one = read_served("m", folder)
    info = ModelInfo(
        name="m",
        kind="encoder",
        max_model_len=LIMIT,
        vocab_size=one.config.vocab_size,
        parameters=0,
        bytes=0,
        load_seconds=0.0,
        dtype="float32",
        device="cpu",
    )
    return Ner(one.task_model(info), InProcess(folder), ThreadPoolExecutor(1))


@pytest.mark.parametrize("family", families("ner"))
def test_a_long_text_is_read_to_its_end_without_a_stride(service: Process, family: str) -> None:
    """Where all that a window can see is the same, its tokens are labelled the same."""
    text = TEXTS[-1]
    (tokens,) = post(
        service, "ner", model=f"ner-{family}", text=[text], aggregation="none", ignore_labels=[]
    )["entities"]
    assert [one["text"].strip() for one in tokens] == text.split()
    (groups,) = post(service, "ner", model=f"ner-{family}", text=[text], ignore_labels=[])["entities"]
    assert [groups[0]["start"], groups[-1]["end"]] == [0, len(text)]


@pytest.mark.parametrize(("row", "multi_label", "count"), [(0, False, 4), (1, True, 4), (2, False, 1)])
@pytest.mark.parametrize("family", families("zero-shot"))
def test_labels_of_the_request(
    service: Process, family: str, row: int, multi_label: bool, count: int
) -> None:
    """All together, each alone, and one by itself; the pipeline cuts long texts unasked."""
    kept = TASKS["zero-shot"]
    labels: list[str] = kept["labels"][:count]
    for which, template in enumerate(kept["templates"]):
        answer = post(
            service,
            "classify",
            model=f"zero-shot-{family}",
            text=kept["texts"][which::2],
            labels=labels,
            multi_label=multi_label,
            truncate=True,
            **({"hypothesis_template": template} if which else {}),
        )
        assert answer["method"] == "nli"
        wanted = [scores[row] for scores in kept[family]["answers"][which::2]]
        assert len(wanted) == 25
        for got, expected in zip(answer["results"], wanted, strict=True):
            scores = {one["label"]: one["score"] for one in got}
            assert [scores[label] for label in labels] == pytest.approx(expected, abs=TOLERANCE)
            assert list(scores.values()) == sorted(scores.values(), reverse=True)


@pytest.mark.parametrize("family", families("rerank"))
def test_relevance_of_documents(service: Process, family: str) -> None:
    """As sentence-transformers' CrossEncoder scores them, which cuts the longer text of a pair."""
    kept = TASKS["rerank"]
    body = {"model": f"rerank-{family}", "documents": kept["documents"], "truncate": True}
    for query, wanted in zip(kept["queries"], kept[family]["answers"], strict=True):
        results = post(service, "rerank", query=query, **body)["results"]
        scores = {one["index"]: one["relevance_score"] for one in results}
        assert [scores[i] for i in range(50)] == pytest.approx(wanted, abs=TOLERANCE)
        assert list(scores.values()) == sorted(scores.values(), reverse=True)


def test_a_sentence_encoder_reranks_by_the_recorded_vectors_cosines(service: Process) -> None:
    query, *documents = INPUTS["sentences"]
    vectors = np.array(EMBEDDINGS["zoo"]["vectors"])
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    results = post(service, "rerank", model="minilm", query=query, documents=documents)["results"]
    scores = {one["index"]: one["relevance_score"] for one in results}
    wanted = unit[1:] @ unit[0]
    assert [scores[i] for i in range(len(documents))] == pytest.approx(wanted.tolist(), abs=TOLERANCE)


def test_a_sentence_encoder_fits_labels_by_the_recorded_vectors(service: Process) -> None:
    text, *labels = INPUTS["sentences"]
    vectors = np.array(EMBEDDINGS["zoo"]["vectors"])
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit[1:] @ unit[0]
    likely = np.exp(20 * cosines) / np.exp(20 * cosines).sum()
    for multi_label, wanted in ((False, likely), (True, np.clip(cosines, 0, 1))):
        answer = post(service, "classify", model="minilm", text=text, labels=labels, multi_label=multi_label)
        assert answer["method"] == "embedding"
        scores = {one["label"]: one["score"] for one in answer["results"][0]}
        assert [scores[label] for label in labels] == pytest.approx(wanted.tolist(), abs=1e-4)
