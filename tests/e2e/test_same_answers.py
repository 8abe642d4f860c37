"""What the service answers is what `model.training evaluate` scores: two implementations, one result."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from model.adapters import load_adapter
from model.families import read_generation_config
from model.loading import load_model
from model.tokenization import Tokenizer
from model.training.config import RECIPES
from model.training.finetune import Classification, Question
from model.training.objectives import extractive_answers, translate_texts
from tests.e2e.conftest import Process

ZOO = Path(__file__).resolve().parents[2] / "model" / "zoo"

RIVER = (
    "The Aller is a river of 263 kilometres in northern Germany. It rises near Seehausen, flows north-west through "
    "the Drömling and past Wolfsburg, Gifhorn and Celle, and joins the Weser below Verden. Until 1970 barges carried "
    "potash from the mines near Celle. "
)
FILLER = "Meadows line the banks, and the path beside them is used by walkers in summer. " * 45
QUESTIONS = [
    ("How long is the Aller?", RIVER),
    ("Which river does the Aller join?", RIVER),
    ("What did barges carry?", RIVER),
    ("Where does the Aller rise?", FILLER + RIVER),
    ("Who uses the path?", RIVER + FILLER),
    ("What did barges carry until 1970?", FILLER + RIVER + FILLER),
]
REQUESTS = [
    "please freeze my account",
    "what's the weather like in Hamburg tomorrow",
    "set a timer for ten minutes",
    "tell me how tall the moon is made of",
    "i lost my luggage on the way to Rome, what now",
    "",
    "translate good morning to French",
]
SENTENCES = ["Tom is a doctor.", "I don't know what to do.", "Where is the station?", "She reads a book."]


@pytest.fixture(scope="module")
def zoo() -> Iterator[Process]:
    process = Process(
        *("--model", f"minilm={ZOO / 'minilm'}", "--model", f"translator={ZOO / 'translator'}"),
        *("--adapter", f"qa=minilm:{ZOO / 'qa'}", "--adapter", f"intent=minilm:{ZOO / 'intent'}"),
    )
    yield process
    assert process.stop() == 0


def test_spans_are_those_of_the_evaluation(zoo: Process) -> None:
    model, tokenizer = load_model(ZOO / "minilm", torch.float32), Tokenizer.from_folder(ZOO / "minilm")
    load_adapter(model, "qa", ZOO / "qa")
    objective = extractive_answers(RECIPES["qa"], tokenizer, [], [], "qa", "qa")
    asked = [Question(str(i), question, context, ()) for i, (question, context) in enumerate(QUESTIONS)]
    inputs = [{"question": question, "context": context} for question, context in QUESTIONS]
    answers = post(zoo, "/v1/qa", {"inputs": inputs})["answers"]
    assert [answer[0]["answer"] for answer in answers] == objective.answer(model, asked)


def test_labels_are_those_of_the_evaluation(zoo: Process) -> None:
    model, tokenizer = load_model(ZOO / "minilm", torch.float32), Tokenizer.from_folder(ZOO / "minilm")
    config = load_adapter(model, "intent", ZOO / "intent")
    objective = Classification([], [], head="intent", adapter="intent")
    numbers = objective.predict(model, [encoding.ids for encoding in tokenizer.encode_batch(REQUESTS)])
    results = post(zoo, "/v1/classify", {"text": REQUESTS, "model": "intent"})["results"]
    assert [result[0]["label"] for result in results] == [config.labels[number] for number in numbers]


def test_translations_are_those_of_the_evaluation(zoo: Process) -> None:
    model, tokenizer = (
        load_model(ZOO / "translator", torch.float32),
        Tokenizer.from_folder(ZOO / "translator"),
    )
    generation = read_generation_config(ZOO / "translator", model.config.vocab_size)
    for language in ("de", "fr", "zh"):
        wanted = translate_texts(model, tokenizer, SENTENCES, language, generation)
        body = {"text": SENTENCES, "target": language, "split_sentences": False}
        got = post(zoo, "/v1/translate", body)["translations"]
        assert [translation["text"] for translation in got] == wanted


def post(zoo: Process, path: str, body: dict[str, Any]) -> dict[str, Any]:
    response = zoo.client.post(path, json=body)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer
