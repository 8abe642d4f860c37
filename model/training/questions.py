"""The questions about texts: which are trained on, which choose, which test, and texts that do not answer them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from model.training import data as files
from model.training.spans import Question

_DEV_EVERY = 40


@dataclass(frozen=True)
class Asked:
    """A question, and the title of the article that its context is from; of an article without one, the context."""

    question: Question
    title: str


def training_questions(data: Path, *, is_dev: bool) -> list[Asked]:
    """Of `extractive-train`; the questions of each fortieth paragraph are kept for development."""
    paragraphs = files.read_jsonl(data / "qa" / "extractive-train.jsonl.gz")
    chosen = (p for number, p in enumerate(paragraphs) if (number % _DEV_EVERY == _DEV_EVERY - 1) is is_dev)
    return list(_questions(chosen))


def squad_questions(data: Path) -> list[Asked]:
    """SQuAD v1.1's development set, which is for testing here."""
    return list(_questions(files.read_jsonl(data / "qa" / "squad-v1.1-dev.jsonl.gz")))


def strangers(asked: Sequence[Asked], *, of_same_article: bool) -> list[Question]:
    """Each question beside a context that has none of its answers in it: of another article the first one from half of
    all contexts further on, or of its own article the next one. Questions without such a context are left out."""
    texts = list(dict.fromkeys((one.title, one.question.context) for one in asked))
    places = {text: place for place, text in enumerate(texts)}
    found = []
    for one in asked:
        start = places[one.title, one.question.context] + (1 if of_same_article else len(texts) // 2)
        for step in range(len(texts)):
            title, text = texts[(start + step) % len(texts)]
            if (title == one.title) is of_same_article and not _answers(one.question, text):
                found.append(replace(one.question, context=text, spans=()))
                break
    return found


def _answers(question: Question, text: str) -> bool:
    lowered = text.lower()
    return any(answer.lower() in lowered for answer in question.answers)


def _questions(paragraphs: Iterable[dict[str, Any]]) -> Iterable[Asked]:
    for paragraph in paragraphs:
        for qa in paragraph["qas"]:
            # Test answers are texts; those to learn from also say where they start.
            placed = [a for a in qa["answers"] if isinstance(a, dict)]
            spans = tuple((a["start"], a["start"] + len(a["text"])) for a in placed)
            texts = tuple(a["text"] for a in placed) or tuple(qa["answers"])
            question = Question(qa["id"], qa["question"], paragraph["context"], texts, spans)
            yield Asked(question, paragraph.get("title") or paragraph["context"])
