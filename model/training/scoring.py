"""The test sets: what they ask, and what answers to them score, with 95 % intervals by bootstrap.

Knows no model: the evaluation gives its answers to the same scores as whoever asks a running service.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import sacrebleu

from model.training import data as files
from model.training.calibration import binned_error
from model.training.intervals import Indices, Score, corpus_score, macro_f1_of, mean_score, resampled
from model.training.metrics import bleu_of, ranking_quality, squad_scores
from model.training.questions import squad_questions, strangers
from model.training.spans import Question

T = TypeVar("T")

Scores = dict[str, float | int | str | dict[str, float]]
"""Of one test set: plain facts, and measures as `{"value", "low", "high"}`."""

TRANSLATION_TESTS: Mapping[str, Sequence[str]] = {
    "de": ("tatoeba-test-v2020-07-28", "tatoeba-test-v2021-08-07"),
    "fr": ("tatoeba-test-v2020-07-28", "tatoeba-test-v2021-08-07", "tico19-test"),
    "zh": ("tatoeba-test-v2021-08-07", "tico19-test"),
}


def with_intervals(examples: int, measures: Sequence[Score]) -> Scores:
    """As JSON has them."""
    scores: Scores = {"examples": examples}
    for measure in measures:
        scores[measure.name] = {
            key: value for key, value in asdict(measure).items() if isinstance(value, float)
        }
    return scores


@dataclass(frozen=True)
class Guess:
    """A text's likeliest label, its probability, and the second likeliest."""

    label: str
    confidence: float
    second: str = ""

    @property
    def inside(self) -> str:
        """The likeliest label in scope."""
        return self.second if self.label == files.OUT_OF_SCOPE else self.label


@dataclass(frozen=True)
class Labels:
    """Texts that each have one label."""

    texts: Sequence[str]
    expected: Sequence[str]

    def score(self, guesses: Sequence[Guess]) -> Scores:
        """Accuracy, macro-F1 and calibration error; where some are out of scope, how that is seen."""
        predicted = [guess.label for guess in guesses]
        names = sorted({*predicted, *self.expected})
        numbers = {name: number for number, name in enumerate(names)}
        said, there = [numbers[name] for name in predicted], [numbers[name] for name in self.expected]
        is_right = np.array([a == b for a, b in zip(said, there, strict=True)])
        confidence = np.array([guess.confidence for guess in guesses])

        def ece(rows: Indices) -> float:
            return 100.0 * binned_error(confidence[rows], is_right[rows])

        measures = [
            *self._scope(guesses),
            mean_score("accuracy", (100.0 * is_right).tolist()),
            resampled("macro_f1", macro_f1_of(said, there, len(names)), len(said)),
            resampled("ece", ece, len(said)),
        ]
        return with_intervals(len(self.texts), measures)

    def _scope(self, guesses: Sequence[Guess]) -> list[Score]:
        """`in_scope_accuracy_unrefused`: of who has only texts in scope, and takes the likeliest label but "oos"."""
        if files.OUT_OF_SCOPE not in self.expected:
            return []
        pairs = list(zip(guesses, self.expected, strict=True))
        inside = [(g, e) for g, e in pairs if e != files.OUT_OF_SCOPE]
        shares = {
            "in_scope_accuracy": [g.label == e for g, e in inside],
            "in_scope_accuracy_unrefused": [g.inside == e for g, e in inside],
            "in_scope_refused": [g.label == files.OUT_OF_SCOPE for g, _ in inside],
            "out_of_scope_recall": [g.label == e for g, e in pairs if e == files.OUT_OF_SCOPE],
        }
        return [mean_score(name, [100.0 * hit for hit in hits]) for name, hits in shares.items() if hits]


@dataclass(frozen=True)
class Found:
    """The best answer's text, how likely it is that the context holds none, and whether that is likelier."""

    text: str
    no_answer: float
    is_refused: bool


@dataclass(frozen=True)
class Answers:
    """Questions that their contexts answer."""

    questions: Sequence[Question]

    def score(self, found: Sequence[Found]) -> Scores:
        """SQuAD's exact match and F1; an answer is wanted of each."""
        each = [squad_scores([f.text], [q.answers]) for f, q in zip(found, self.questions, strict=True)]
        return with_intervals(
            len(found), [mean_score(name, [row[name] for row in each]) for name in ("exact_match", "f1")]
        )


@dataclass(frozen=True)
class Answerable:
    """Questions beside their own contexts, and questions beside a stranger's, which does not answer them."""

    own: Sequence[Question]
    strange: Sequence[Question]

    @property
    def questions(self) -> Sequence[Question]:
        """All, those beside their own contexts first."""
        return [*self.own, *self.strange]

    def score(self, found: Sequence[Found]) -> Scores:
        """How well own contexts are told from others, by probability and by what is answered."""
        is_stranger = np.arange(len(found)) >= len(self.own)
        scores = np.array([f.no_answer for f in found])
        refused = np.array([f.is_refused for f in found])
        auroc = resampled(
            "no_answer_auroc", lambda rows: ranking_quality(scores[rows], is_stranger[rows]), len(found)
        )
        answered = mean_score("answered", (100.0 * ~refused[~is_stranger]).tolist())
        return with_intervals(
            len(found), [auroc, answered, mean_score("refused", (100.0 * refused[is_stranger]).tolist())]
        )


@dataclass(frozen=True)
class Translations:
    """Sentences with one translation each into `language`."""

    language: str
    sources: Sequence[str]
    references: Sequence[str]

    def score(self, guesses: Sequence[str]) -> Scores:
        """Corpus BLEU and chrF by sacrebleu."""
        bleu, chrf = bleu_of(self.language), sacrebleu.CHRF()
        measures = [
            corpus_score("bleu", bleu, guesses, self.references),
            corpus_score("chrf", chrf, guesses, self.references),
        ]
        return {**with_intervals(len(guesses), measures), "signature": str(bleu.get_signature())}


def label_tests(data: Path, datasets: Sequence[str], limit: int | None) -> dict[str, Labels]:
    """By name."""
    tests = {}
    for name in datasets:
        rows = some_of(files.labelled_texts(data, name, "test"), limit)
        tests[f"{name} test"] = Labels([text for text, _ in rows], [label for _, label in rows])
    return tests


def answer_tests(data: Path, limit: int | None) -> dict[str, Answers | Answerable]:
    """SQuAD's development set, and the same questions beside their own and a stranger's paragraph: one of another
    article, or another one of the same article, which is harder to tell."""
    asked = squad_questions(data)
    own = [one.question for one in some_of(asked, limit)]
    others, neighbours = (strangers(asked, of_same_article=same) for same in (False, True))
    return {
        "squad-v1.1 dev": Answers(own),
        "squad-v1.1 shuffled": Answerable(own, some_of(others, limit)),
        "squad-v1.1 shuffled within articles": Answerable(own, some_of(neighbours, limit)),
    }


def translation_tests(
    data: Path, limit: int | None, tests: Mapping[str, Sequence[str]]
) -> dict[str, Translations]:
    """By name; `tests` are stems of files by language."""
    found = {}
    for language, names in tests.items():
        for name in names:
            pairs = some_of(files.translation_pairs(data, language, name), limit)
            found[f"{name} en-{language}"] = Translations(
                language, [source for source, _ in pairs], [target for _, target in pairs]
            )
    return found


def some_of(rows: Sequence[T], limit: int | None) -> list[T]:
    """At most `limit` rows, spread evenly over all."""
    if limit is None or len(rows) <= limit:
        return list(rows)
    return [rows[number * len(rows) // limit] for number in range(limit)]
