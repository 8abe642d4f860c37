"""What the service answers is what `model.training evaluate` scores: two implementations, one result."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.zoo_scores import Post, disagreement, served_answers
from model.training.evaluate import Evaluation, Test
from model.training.recipes import RECIPES
from model.training.scoring import Answerable, Answers, Labels, Translations
from model.training.spans import Question
from tests.e2e.conftest import Process

ZOO = Path(__file__).resolve().parents[2] / "model" / "zoo"
ADAPTERS = ("qa", "intent", "banking", "sentiment")

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
UNANSWERED = [
    ("How long is the Rhine?", FILLER),
    ("Who wrote the letter?", RIVER),
    ("When was the bridge built?", RIVER + FILLER),
]
REQUESTS = [
    "please freeze my account",
    "what's the weather like in Hamburg tomorrow",
    "set a timer for ten minutes",
    "tell me how tall the moon is made of",
    "i lost my luggage on the way to Rome, what now",
    "",
    "translate good morning to French",
    "how many calories are in an apple",
    "who was the first emperor of Rome",
    "is my card going to work in Japan",
]
SENTENCES = ["Tom is a doctor.", "I don't know what to do.", "Where is the station?", "She reads a book."]


@pytest.fixture(scope="module")
def zoo() -> Iterator[Process]:
    process = Process(
        *("--model", f"minilm={ZOO / 'minilm'}", "--model", f"translator={ZOO / 'translator'}"),
        *(flag for name in ADAPTERS for flag in ("--adapter", f"{name}=minilm:{ZOO / name}")),
    )
    yield process
    assert process.stop() == 0


@pytest.mark.parametrize("name", ["intent", "banking", "sentiment"])
def test_labels_and_their_probabilities_are_those_of_the_evaluation(zoo: Process, name: str) -> None:
    test = Labels(REQUESTS, ["oos"] * len(REQUESTS))
    theirs, ours = evaluated(name, test), served_answers(poster(zoo), name, test)
    assert [(guess.label, guess.second) for guess in ours] == [
        (guess.label, guess.second) for guess in theirs
    ]
    assert [guess.confidence for guess in ours] == pytest.approx(
        [guess.confidence for guess in theirs], abs=1e-4
    )
    assert len({guess.label for guess in ours}) > 1
    assert disagreement(test, ours, theirs) == 0.0


def test_answers_are_those_of_the_evaluation_and_score_alike(zoo: Process) -> None:
    test = Answers([Question(str(i), *asked, ("the Aller",)) for i, asked in enumerate(QUESTIONS)])
    theirs, ours = evaluated("qa", test), served_answers(poster(zoo), "qa", test)
    assert [found.text for found in ours] == [found.text for found in theirs]
    assert test.score(ours) == test.score(theirs)


def test_no_answer_is_said_where_the_evaluation_says_it(zoo: Process) -> None:
    own, strange = (
        [Question(question, question, context, ()) for question, context in some]
        for some in (QUESTIONS, UNANSWERED)
    )
    test = Answerable(own, strange)
    theirs, ours = evaluated("qa", test), served_answers(poster(zoo), "qa", test)
    assert [found.is_refused for found in ours] == [found.is_refused for found in theirs]
    assert [found.no_answer for found in ours] == pytest.approx(
        [found.no_answer for found in theirs], abs=1e-4
    )
    assert [found.is_refused for found in ours[len(own) :]] == [True] * len(strange)
    assert not all(found.is_refused for found in ours[: len(own)])


@pytest.mark.parametrize("language", ["de", "fr", "zh"])
def test_translations_are_those_of_the_evaluation(zoo: Process, language: str) -> None:
    test = Translations(language, SENTENCES, SENTENCES)
    theirs, ours = evaluated("translator", test), served_answers(poster(zoo), "translator", test)
    assert list(ours) == list(theirs)


def evaluated(name: str, test: Test) -> Sequence[Any]:
    recipe = RECIPES[name]
    run = Evaluation(recipe, ZOO / name, ZOO / "minilm" if recipe.lora is not None else None)
    with torch.inference_mode():
        return run.answer(test)


def poster(zoo: Process) -> Post:
    def post(path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        response = zoo.client.post(path, json=body)
        assert response.status_code == 200, response.text
        answer: Mapping[str, Any] = response.json()
        return answer

    return post
