"""The service's answers against those that the pipelines of transformers 4.57.6 gave once, through HTTP.

`record.py` made what is under `recorded/`; the same checkpoints are built here from the same seeds.
"""

import hashlib
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from app.engine.protocol import Encoded, EncodeRequest
from app.tasks.base import softmax
from model.families import read_config
from model.tokenization import Tokenizer
from tests.e2e.conftest import Process
from tests.engine.test_engine import drain, make_engine, numbers
from tests.parity.seeded import checksum, write_folder

RECORDED = Path(__file__).parent / "recorded"
ZOO = Path(__file__).parents[2] / "model" / "zoo" / "minilm"
SERVED = ("qa", "classify", "fill-mask", "translate", "generate")
TOLERANCE = 1e-5


def recorded(task: str) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((RECORDED / f"{task}.json").read_text(encoding="utf-8"))
    return content


INPUTS = recorded("inputs")
TEXTS: list[str] = INPUTS["texts"]
TASKS = {task: recorded(task) for task in (*SERVED, "token-class")}
EMBEDDINGS = recorded("embeddings")


def families(task: str) -> list[str]:
    return [name for name, value in TASKS[task].items() if isinstance(value, dict)]


def build(kept: dict[str, Any], folder: Path, pooling: dict[str, Any] | None = None) -> Path:
    """The folder of a recorded checkpoint; says it where it is not the one that was recorded."""
    weights = write_folder(kept["checkpoint"], folder, pooling)
    assert checksum(weights) == kept["checkpoint"]["weights"], (
        f"{folder.name}: seeded.py makes other weights than when the answers were recorded: make parity-record"
    )
    ids = [encoding.ids for encoding in Tokenizer.from_folder(folder).encode_batch(TEXTS)]
    assert hashlib.sha256(json.dumps(ids).encode()).hexdigest() == kept["tokens"], (
        f"{folder.name}: texts are cut into other tokens than when the answers were recorded: make parity-record"
    )
    return folder


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    """One service with every recorded checkpoint, named by task and family."""
    root = tmp_path_factory.mktemp("recorded")
    folders = {
        f"{task}-{family}": build(TASKS[task][family], root / f"{task}-{family}")
        for task in (*SERVED, "token-class")
        for family in families(task)
    }
    for name in EMBEDDINGS["vectors"]:
        mode, _, unit = name.partition("-")
        pooling = {"mode": mode, "normalize": bool(unit)}
        folders[f"embeddings-{name}"] = build(EMBEDDINGS, root / f"embeddings-{name}", pooling)
    folders["minilm"] = ZOO
    models = [part for name, path in folders.items() for part in ("--model", f"{name}={path}")]
    process = Process(*models, "--kv-cache-memory", str(16 << 20), "--dtype", "float32")
    yield process
    assert process.stop() == 0


def post(service: Process, route: str, **body: Any) -> dict[str, Any]:
    answer = service.client.post(f"/v1/{route}", json=body)
    assert answer.status_code == 200, answer.text
    content: dict[str, Any] = answer.json()
    return content


def cases(task: str, count: int) -> list[tuple[str, int]]:
    assert all(len(TASKS[task][family]["answers"]) == count for family in families(task))
    return [(family, i) for family in families(task) for i in range(count)]


def ask(service: Process, family: str, item: dict[str, str], **settings: Any) -> list[dict[str, Any]]:
    answers: list[dict[str, Any]] = post(service, "qa", model=f"qa-{family}", **item, **settings)["answers"][
        0
    ]
    return answers


@pytest.mark.parametrize(("family", "i"), cases("qa", len(INPUTS["questions"])))
def test_answers_stand_where_the_pipeline_finds_them(service: Process, family: str, i: int) -> None:
    """In one window both rank spans by the sum of their logits, so the answer is the pipeline's own.

    In several the pipeline compares probabilities that each window makes up for itself; here a span is
    measured against its window's score for no answer (docs/decisions/0012-qa-scores.md). Then what is held
    against is the best span of the window in which it stands highest, windows and logits being the pipeline's.
    """
    item, wanted = INPUTS["questions"][i], TASKS["qa"][family]["answers"][i]
    best = max(wanted["windows"], key=lambda window: float(window[2]))
    (answer,) = ask(service, family, item)
    assert [answer["start"], answer["end"]] == best[:2]
    assert answer["answer"] == item["context"][best[0] : best[1]]
    theirs = [wanted["start"], wanted["end"]]
    assert theirs in [window[:2] for window in wanted["windows"]]
    if len(wanted["windows"]) == 1:
        assert theirs == best[:2]


@pytest.mark.parametrize(("family", "i"), cases("qa", len(INPUTS["questions"])))
def test_an_answer_is_as_much_likelier_than_none_as_the_pipeline_says(
    service: Process, family: str, i: int
) -> None:
    """Scores are shares of different wholes: of all spans here, of start places times end places there.

    Their ratio to the score for having no answer is the same in both, in one window.
    """
    item, wanted = INPUTS["questions"][i], TASKS["qa"][family]["answers"][i]
    if len(wanted["windows"]) > 1:
        assert wanted["none"] < 1, "each window says it for itself; the pipeline keeps the least"
        return
    answers = ask(service, family, item, allow_no_answer=True, top_k=100)
    (none,) = [answer["score"] for answer in answers if not answer["end"]]
    first = next(answer for answer in answers if answer["end"])
    assert [first["start"], first["end"]] == [wanted["start"], wanted["end"]]
    value = wanted["windows"][0][2]
    assert math.log(first["score"] / none) == pytest.approx(value, abs=1e-4)
    assert math.log(wanted["score"] / wanted["none"]) == pytest.approx(value, abs=1e-4)


def test_some_contexts_take_several_windows() -> None:
    for family in families("qa"):
        counts = [len(answer["windows"]) for answer in TASKS["qa"][family]["answers"]]
        assert sum(count > 2 for count in counts) >= 3
        assert counts.count(1) >= 14


@pytest.mark.parametrize("family", families("classify"))
def test_labels_and_their_scores(service: Process, family: str) -> None:
    """A softmax, a sigmoid for each label, and a sigmoid of the only one."""
    results = post(service, "classify", model=f"classify-{family}", text=TEXTS)["results"]
    for text, got, wanted in zip(TEXTS, results, TASKS["classify"][family]["answers"], strict=True):
        assert [one["label"] for one in got] == [label for label, _ in wanted], text
        assert [one["score"] for one in got] == pytest.approx([score for _, score in wanted], abs=TOLERANCE)


@pytest.mark.parametrize("family", families("fill-mask"))
def test_tokens_for_a_mask(service: Process, family: str) -> None:
    """Of a token that begins a word we leave out the blank, which then stands before it in the text."""
    mask = {"roberta": "<mask>"}.get(family, "[MASK]")
    texts = [text.replace("[MASK]", mask) for text in INPUTS["masked"]]
    results = post(service, "fill-mask", model=f"fill-mask-{family}", text=texts)["results"]
    for text, got, wanted in zip(texts, results, TASKS["fill-mask"][family]["answers"], strict=True):
        tokens = [token.removeprefix(" ") if len(token) > 1 else token for token, _ in wanted]
        assert [one["token"] for one in got] == tokens, text
        assert [one["score"] for one in got] == pytest.approx([score for _, score in wanted], abs=TOLERANCE)


@pytest.mark.parametrize(("place", "num_beams"), [(0, 1), (1, 4)])
@pytest.mark.parametrize("family", families("translate"))
def test_translations(service: Process, family: str, place: int, num_beams: int) -> None:
    """Greedy and by beams. A text without a letter is given back here, and goes through the model there."""
    body = {"text": TEXTS, "target": "de", "split_sentences": False, "max_tokens": 24, "num_beams": num_beams}
    results = post(service, "translate", model=f"translate-{family}", **body)["translations"]
    for text, got, wanted in zip(TEXTS, results, TASKS["translate"][family]["answers"], strict=True):
        assert got["text"] == (wanted[place] if any(map(str.isalpha, text)) else text)


@pytest.mark.parametrize("family", families("generate"))
def test_generated_tokens_and_text(service: Process, family: str) -> None:
    body = {"prompt": TEXTS, "max_tokens": 24, "temperature": 0, "logprobs": 0}
    results = post(service, "generate", model=f"generate-{family}", **body)["results"]
    ends = read_ends(family)
    for text, got, (ids, continued) in zip(TEXTS, results, TASKS["generate"][family]["answers"], strict=True):
        assert [one["id"] for one in got["logprobs"]] == [one for one in ids if one not in ends], text
        assert got["text"] == continued, text


def read_ends(family: str) -> set[int]:
    end = TASKS["generate"][family]["checkpoint"]["config"]["eos_token_id"]
    return set(end) if isinstance(end, list) else {end}


@pytest.mark.parametrize("family", families("token-class"))
def test_labels_of_tokens_in_the_engine(family: str, tmp_path: Path) -> None:
    """The engine's logits by themselves; `test_recorded_encoders.py` has the entities that the route makes of them."""
    folder = build(TASKS["token-class"][family], tmp_path / family)
    tokenizer, labels = Tokenizer.from_folder(folder), read_config(folder).labels
    encodings = tokenizer.encode_batch(TEXTS)
    engine = make_engine({"m": folder}, token_budget=2048)
    for i, one in enumerate(encodings):
        engine.add(EncodeRequest(id=i, model="m", ids=one.ids, type_ids=one.type_ids, output="token-class"))
    encoded: dict[int, Encoded] = {}
    drain(engine, {}, encoded)
    for i, (one, wanted) in enumerate(zip(encodings, TASKS["token-class"][family]["answers"], strict=True)):
        logits = np.array(numbers(encoded[i]), np.float32).reshape(len(one.ids), len(labels))
        scores = softmax(logits)
        plain = [place for place, is_special in enumerate(one.special_mask) if not is_special]
        got = [(place, labels[scores[place].argmax()], *one.offsets[place]) for place in plain]
        assert got == [(place, label, start, end) for place, label, _, start, end in wanted]
        assert [scores[place].max() for place in plain] == pytest.approx(
            [score for _, _, score, _, _ in wanted], abs=TOLERANCE
        )


@pytest.mark.parametrize("name", EMBEDDINGS["vectors"])
def test_vectors_of_every_pooling(service: Process, name: str) -> None:
    """Ours are of unit length whether or not the checkpoint says Normalize, as OpenAI's route promises."""
    wanted = np.array(EMBEDDINGS["vectors"][name])
    lengths = np.linalg.norm(wanted, axis=1, keepdims=True)
    if name.endswith("-unit"):
        np.testing.assert_allclose(lengths, 1, atol=1e-5)
    got = vectors(service, f"embeddings-{name}", TEXTS)
    np.testing.assert_allclose(got, wanted / lengths, atol=TOLERANCE, rtol=0)


def test_vectors_of_the_zoo_s_sentence_encoder(service: Process) -> None:
    """Stored in float16, computed in float32 by both."""
    stored = hashlib.sha256((ZOO / "model.safetensors").read_bytes()).hexdigest()
    assert stored == EMBEDDINGS["zoo"]["weights"], "other weights than recorded: make parity-record"
    got = vectors(service, "minilm", INPUTS["sentences"])
    np.testing.assert_allclose(got, EMBEDDINGS["zoo"]["vectors"], atol=TOLERANCE, rtol=0)


def vectors(service: Process, model: str, texts: list[str]) -> Any:
    rows = post(service, "embeddings", model=model, input=texts)["data"]
    return np.array([row["embedding"] for row in rows])


def infer(service: Process, task: str, model: str, inputs: Any, **more: Any) -> Any:
    """As Hugging Face's clients ask."""
    answer = service.client.post(f"/models/{model}/pipeline/{task}", json={"inputs": inputs, **more})
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.parametrize("family", families("classify"))
def test_pipelines_of_labels(service: Process, family: str) -> None:
    results = infer(service, "text-classification", f"classify-{family}", TEXTS)
    for text, got, wanted in zip(TEXTS, results, TASKS["classify"][family]["answers"], strict=True):
        assert [one["label"] for one in got] == [label for label, _ in wanted], text
        assert [one["score"] for one in got] == pytest.approx([score for _, score in wanted], abs=TOLERANCE)


@pytest.mark.parametrize("family", families("fill-mask"))
def test_pipelines_of_masks(service: Process, family: str) -> None:
    mask = {"roberta": "<mask>"}.get(family, "[MASK]")
    texts = [text.replace("[MASK]", mask) for text in INPUTS["masked"]]
    results = infer(service, "fill-mask", f"fill-mask-{family}", texts)
    for text, got, wanted in zip(texts, results, TASKS["fill-mask"][family]["answers"], strict=True):
        assert [one["token_str"] for one in got] == [token for token, _ in wanted], text
        assert [one["score"] for one in got] == pytest.approx([score for _, score in wanted], abs=TOLERANCE)


@pytest.mark.parametrize("family", families("token-class"))
def test_pipelines_of_tokens(service: Process, family: str) -> None:
    parameters = {"aggregation_strategy": "none", "ignore_labels": []}
    results = infer(service, "token-classification", f"token-class-{family}", TEXTS, parameters=parameters)
    for text, got, wanted in zip(TEXTS, results, TASKS["token-class"][family]["answers"], strict=True):
        places = [[one["index"], one["entity"], one["start"], one["end"]] for one in got]
        assert places == [[place, label, start, end] for place, label, _, start, end in wanted], text
        scores = [score for _, _, score, _, _ in wanted]
        assert [one["score"] for one in got] == pytest.approx(scores, abs=TOLERANCE)


@pytest.mark.parametrize("family", families("qa"))
def test_pipelines_of_answers(service: Process, family: str) -> None:
    """Of contexts in one window; see above for the others."""
    parameters = {"align_to_words": False, "max_answer_len": 30}
    pairs = zip(INPUTS["questions"], TASKS["qa"][family]["answers"], strict=True)
    chosen = [(item, wanted) for item, wanted in pairs if len(wanted["windows"]) == 1]
    items = [item for item, _ in chosen]
    results = infer(service, "question-answering", f"qa-{family}", items, parameters=parameters)
    assert [[one["start"], one["end"]] for one in results] == [
        [wanted["start"], wanted["end"]] for _, wanted in chosen
    ]
    aligned = infer(service, "question-answering", f"qa-{family}", items, parameters={"max_answer_len": 30})
    for item, one in zip(items, aligned, strict=True):
        assert item["context"][one["start"] : one["end"]] == one["answer"]


@pytest.mark.parametrize("num_beams", [1, 4])
@pytest.mark.parametrize("family", families("translate"))
def test_pipelines_of_translations(service: Process, family: str, num_beams: int) -> None:
    settings = {"max_new_tokens": 24, "num_beams": num_beams}
    parameters = {"tgt_lang": "de", "generate_parameters": settings}
    results = infer(service, "translation", f"translate-{family}", TEXTS, parameters=parameters)
    for text, got, wanted in zip(TEXTS, results, TASKS["translate"][family]["answers"], strict=True):
        best = wanted[num_beams > 1]
        assert got == {"translation_text": best if any(map(str.isalpha, text)) else text}


@pytest.mark.parametrize("family", families("generate"))
def test_pipelines_of_generated_text(service: Process, family: str) -> None:
    parameters = {"max_new_tokens": 24, "do_sample": False, "details": True}
    results = infer(service, "text-generation", f"generate-{family}", TEXTS, parameters=parameters)
    ends = read_ends(family)
    for text, (got,), (ids, continued) in zip(
        TEXTS, results, TASKS["generate"][family]["answers"], strict=True
    ):
        assert [one["id"] for one in got["details"]["tokens"]] == [one for one in ids if one not in ends]
        assert got["generated_text"] == continued, text


@pytest.mark.parametrize("name", EMBEDDINGS["vectors"])
def test_pipelines_of_vectors(service: Process, name: str) -> None:
    got = infer(service, "feature-extraction", f"embeddings-{name}", TEXTS, normalize=False)
    np.testing.assert_allclose(got, EMBEDDINGS["vectors"][name], atol=TOLERANCE, rtol=0)
