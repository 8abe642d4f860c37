"""Scores on the untouched test files: what a card may claim. One way to answer for each kind of recipe."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from model.adapters import load_adapter
from model.families import read_generation_config, read_json
from model.layers.quantized import Quantization
from model.loading import load_model
from model.tokenization import Tokenizer
from model.training import data as files
from model.training.calibration import binned_error
from model.training.config import Recipe
from model.training.finetune import Classification
from model.training.intervals import Indices, resampled
from model.training.objectives import (
    extractive_answers,
    masked_language_model,
    translate_texts,
    unknown_ids,
)
from model.training.pretrain import NextToken
from model.training.scoring import (
    TRANSLATION_TESTS,
    Answerable,
    Answers,
    Found,
    Guess,
    Labels,
    Scores,
    Translations,
    answer_tests,
    label_tests,
    translation_tests,
    with_intervals,
)
from model.training.spans import FoundSpan, Question
from model.transformer import OWN

STAGE = "stage.json"
"""Beside exported weights: what `result.json` says of the stage that made them."""

Test = Labels | Answers | Answerable | Translations


def evaluate(
    recipe: Recipe,
    data: Path,
    folder: Path,
    base: Path | None = None,
    *,
    only: str = "",
    limit: int | None = None,
    num_beams: int | None = None,
    quantization: Quantization | None = None,
    answers: Path | None = None,
) -> dict[str, Scores]:
    """The test scores of the weights in `folder` by test set, computed in float32, or quantized for that.

    An adapter folder needs the folder of its `base`. `only` keeps the test sets whose name contains it,
    `limit` so many examples of each, evenly spread. `num_beams` takes the place of what the folder publishes.
    The file `answers` gets what was answered, a JSON object a line.
    """
    run = Evaluation(recipe, folder, base, num_beams=num_beams, quantization=quantization)
    if recipe.objective in ("masked-lm", "next-token"):
        of_text = run.masked_tokens if recipe.objective == "masked-lm" else run.next_tokens
        return {"wikitext-2 test": of_text(data, limit)} if only in "wikitext-2 test" else {}
    scores: dict[str, Scores] = {}
    with torch.inference_mode():
        for name, test in sets_of(recipe, data, limit).items():
            if only not in name:
                continue
            given = run.answer(test)
            scores[name] = run.score(test, given)
            if answers is not None:
                write_answers(answers, name, test, given)
    return scores


def sets_of(recipe: Recipe, data: Path, limit: int | None = None) -> Mapping[str, Test]:
    """The test sets of a recipe whose answers can be told, by name."""
    if recipe.objective == "text-to-text":
        return translation_tests(data, limit, TRANSLATION_TESTS)
    if recipe.objective == "extractive-qa":
        return answer_tests(data, limit)
    return label_tests(data, recipe.datasets, limit)


class Evaluation:
    """One model, which answers tests."""

    def __init__(
        self,
        recipe: Recipe,
        folder: Path,
        base: Path | None = None,
        *,
        num_beams: int | None = None,
        quantization: Quantization | None = None,
    ) -> None:
        """See `evaluate`."""
        torch.manual_seed(recipe.schedule.seed)
        source = folder if base is None else base
        self.recipe, self.folder = recipe, folder
        self.model = load_model(source, torch.float32, quantization=quantization)
        self.model.pack()
        self.head, self.config = OWN, self.model.config
        if base is not None:
            self.head = recipe.name
            self.config = load_adapter(self.model, self.head, folder)
        self.adapter = None if self.head == OWN else self.head
        self.tokenizer = Tokenizer.from_folder(source)
        self.generation = read_generation_config(source, self.config.vocab_size)
        if num_beams is not None:
            self.generation = replace(self.generation, num_beams=num_beams)
        self._spans: dict[Question, FoundSpan] = {}
        self._logits = torch.empty(0)

    def answer(self, test: Test) -> Sequence[Any]:
        """What the test's `score` takes."""
        if isinstance(test, Translations):
            return translate_texts(
                self.model, self.tokenizer, list(test.sources), test.language, self.generation
            )
        if isinstance(test, Labels):
            self._logits = self._classify(test.texts)
            best, labels = self._logits.softmax(-1).topk(2), self.config.labels
            pairs = zip(best.indices.tolist(), best.values[:, 0].tolist(), strict=True)
            return [Guess(labels[first], chance, labels[second]) for (first, second), chance in pairs]
        none = self.config.no_answer_value
        return [
            Found(f.text, 1 / (1 + math.exp(min(f.total - none, 700.0))), none > f.value)
            for f in self.spans(test.questions)
        ]

    def score(self, test: Test, given: Sequence[Any]) -> Scores:
        """The test's scores of answers just given, and how the model gave them."""
        scores = test.score(given)
        if isinstance(test, Translations):
            return {"num_beams": self.generation.num_beams, **scores}
        if isinstance(test, Labels):
            return scores | self._uncalibrated(test)
        return scores

    def spans(self, questions: Sequence[Question]) -> list[FoundSpan]:
        """The best span of each; questions that come again are not answered again."""
        new = [question for question in dict.fromkeys(questions) if question not in self._spans]
        objective = extractive_answers(self.recipe, self.tokenizer, [], [], self.head, self.adapter)
        self._spans.update(zip(new, objective.find(self.model, new), strict=True))
        return [self._spans[question] for question in questions]

    def _classify(self, texts: Sequence[str]) -> Tensor:
        objective = Classification(
            [], [], pad_id=self.config.pad_token_id, head=self.head, adapter=self.adapter
        )
        return objective.logits(self.model, [list(e.ids) for e in self.tokenizer.encode_batch(list(texts))])

    def _uncalibrated(self, test: Labels) -> Scores:
        """The calibration error that there was before the head was calibrated, where the stage says how it was."""
        file = self.folder / STAGE
        told = read_json(file).get("calibration") if file.exists() else None
        if not isinstance(told, dict):
            return {}
        logits = self._logits.clone()
        if "bias" in told:
            logits[:, self.config.labels.index(files.OUT_OF_SCOPE)] -= told["bias"]
        confidence, numbers = (logits * told["temperature"]).softmax(-1).max(-1)
        said = [self.config.labels[number] for number in numbers.tolist()]
        is_right = torch.tensor([a == b for a, b in zip(said, test.expected, strict=True)]).numpy()
        chances = confidence.numpy()

        def ece(rows: Indices) -> float:
            return 100.0 * binned_error(chances[rows], is_right[rows])

        before = with_intervals(len(said), [resampled("ece_before", ece, len(said))])
        return {"ece_before": before["ece_before"]}

    def masked_tokens(self, data: Path, limit: int | None) -> Scores:
        """Accuracy on masked tokens and on next sentences of WikiText-2, resampled by batches of pairs."""
        objective = masked_language_model(
            self.recipe, self.tokenizer, self.config, data, ("", "test"), self.head, self.adapter
        )
        counts = torch.tensor(objective.validation_counts(self.model, limit), dtype=torch.float64).numpy()
        loss, right, words, pairs_right, pairs = counts.T

        def masked_accuracy(rows: Indices) -> float:
            return 100.0 * float(right[rows].sum() / words[rows].sum())

        def next_accuracy(rows: Indices) -> float:
            return 100.0 * float(pairs_right[rows].sum() / pairs[rows].sum())

        def masked_loss(rows: Indices) -> float:
            return float(loss[rows].sum() / words[rows].sum())

        measures = {
            "masked_accuracy": masked_accuracy,
            "next_sentence_accuracy": next_accuracy,
            "masked_loss": masked_loss,
        }
        return with_intervals(
            int(pairs.sum()), [resampled(name, measure, len(counts)) for name, measure in measures.items()]
        )

    def next_tokens(self, data: Path, limit: int | None) -> Scores:
        """Perplexity a token and bits a byte on WikiText-2, resampled by blocks."""
        texts = ["\n".join(article) for article in files.wikitext_articles(data, "test")][:limit]
        ids = [list(e.ids) for e in self.tokenizer.encode_batch(texts, add_special_tokens=False)]
        objective = NextToken(
            [],
            ids,
            block=self.recipe.max_length,
            separator=self.model.config.bos_token_id or 0,
            unlearned=unknown_ids(self.tokenizer),
            together=1,
        )
        losses, sizes = torch.tensor(objective.block_losses(self.model), dtype=torch.float64).numpy().T
        num_bytes = sum(len(text.replace("<unk>", "").encode()) for text in texts)
        tokens_a_byte = float(sizes.sum()) / num_bytes

        def loss(rows: Indices) -> float:
            return float((losses[rows] * sizes[rows]).sum() / sizes[rows].sum())

        measures = {
            "loss": loss,
            "perplexity": lambda rows: math.exp(loss(rows)),
            "bits_per_byte": lambda rows: loss(rows) * tokens_a_byte / math.log(2),
        }
        scores = with_intervals(
            len(losses), [resampled(name, measure, len(losses)) for name, measure in measures.items()]
        )
        return {**scores, "tokens": int(sizes.sum())}


def write_answers(file: Path, name: str, test: Test, given: Sequence[Any]) -> None:
    """Appends them, one JSON object a line, beside what was asked and what was expected."""
    if isinstance(test, Translations):
        asked = [
            {"text": text, "expected": reference}
            for text, reference in zip(test.sources, test.references, strict=True)
        ]
    elif isinstance(test, Labels):
        asked = [
            {"text": text, "expected": label} for text, label in zip(test.texts, test.expected, strict=True)
        ]
    else:
        asked = [asdict(question) for question in test.questions]
    with file.open("a", encoding="utf-8") as out:
        for one, answer in zip(asked, given, strict=True):
            said = {"answer": answer} if isinstance(answer, str) else asdict(answer)
            out.write(json.dumps({"test": name, **one, **said}, ensure_ascii=False) + "\n")
