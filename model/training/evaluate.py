"""Scores on the untouched test files: what a card may claim. One function for each kind of recipe."""

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

from model.adapters import load_adapter
from model.config import TransformerConfig
from model.families import read_generation_config
from model.generation_config import GenerationConfig
from model.layers.quantized import Quantization
from model.loading import load_model
from model.tokenization import Tokenizer
from model.training import data as files
from model.training.config import TARGET_LANGUAGES, Recipe
from model.training.finetune import Classification, Question
from model.training.metrics import accuracy, macro_f1, recall, squad_scores, translation_scores
from model.training.objectives import (
    extractive_answers,
    masked_language_model,
    translate_texts,
    unknown_ids,
)
from model.training.pretrain import NextToken
from model.transformer import OWN, Transformer

Scores = dict[str, float | int | str]

TRANSLATION_TESTS = {
    "de": ("tatoeba-test-v2020-07-28", "tatoeba-test-v2021-08-07"),
    "fr": ("tatoeba-test-v2020-07-28", "tatoeba-test-v2021-08-07", "tico19-test"),
    "zh": ("tatoeba-test-v2021-08-07", "tico19-test"),
}


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
) -> dict[str, Scores]:
    """The test scores of the weights in `folder` by test set, computed in float32, or quantized for that.

    An adapter folder needs the folder of its `base`. `only` keeps the test sets whose name contains it,
    `limit` the first so many examples of each. `num_beams` takes the place of what the folder publishes.
    """
    torch.manual_seed(recipe.schedule.seed)
    source = folder if base is None else base
    model = load_model(source, torch.float32, quantization=quantization)
    model.pack()
    head, config = OWN, model.config
    if base is not None:
        head = recipe.name
        config = load_adapter(model, head, folder)
    generation = read_generation_config(source, config.vocab_size)
    if num_beams is not None:
        generation = replace(generation, num_beams=num_beams)
    run = _Evaluation(recipe, data, model, config, Tokenizer.from_folder(source), head, limit, generation)
    tests: Mapping[str, Callable[[], Scores]] = _TESTS[recipe.objective](run)
    with torch.inference_mode():
        return {name: test() for name, test in tests.items() if only in name}


class _Evaluation:
    """One model and the tests it can be given."""

    def __init__(
        self,
        recipe: Recipe,
        data: Path,
        model: Transformer,
        config: TransformerConfig,
        tokenizer: Tokenizer,
        head: str,
        limit: int | None,
        generation: GenerationConfig,
    ) -> None:
        self.generation = generation
        self.recipe, self.data, self.model, self.config = recipe, data, model, config
        self.tokenizer, self.head, self.limit = tokenizer, head, limit
        self.adapter = None if head == OWN else head

    def translation(self) -> Mapping[str, Callable[[], Scores]]:
        """BLEU and chrF of translations as the folder says that they are made, by beams or greedily."""
        return {
            f"{name} en-{language}": partial(self._translate, name, language)
            for language in TARGET_LANGUAGES
            for name in TRANSLATION_TESTS[language]
        }

    def _translate(self, name: str, language: str) -> Scores:
        pairs = files.translation_pairs(self.data, language, name)[: self.limit]
        sources = [source for source, _ in pairs]
        guesses = translate_texts(self.model, self.tokenizer, sources, language, self.generation)
        return {
            "examples": len(pairs),
            "num_beams": self.generation.num_beams,
            **translation_scores(guesses, [target for _, target in pairs], language),
        }

    def classes(self) -> Mapping[str, Callable[[], Scores]]:
        """Accuracy and macro-F1 of each data set; of CLINC150 also the out-of-scope recall."""
        return {f"{name} test": partial(self._classify, name) for name in self.recipe.datasets}

    def _classify(self, name: str) -> Scores:
        rows = files.labelled_texts(self.data, name, "test")[: self.limit]
        objective = Classification(
            [], [], pad_id=self.config.pad_token_id, head=self.head, adapter=self.adapter
        )
        ids = [list(e.ids) for e in self.tokenizer.encode_batch([text for text, _ in rows])]
        guesses = [self.config.labels[number] for number in objective.predict(self.model, ids)]
        expected = [label for _, label in rows]
        scores: Scores = {"examples": len(rows)}
        if name == "clinc150":
            inside = [(g, e) for g, e in zip(guesses, expected, strict=True) if e != "oos"]
            scores["in_scope_accuracy"] = accuracy([g for g, _ in inside], [e for _, e in inside])
            scores["out_of_scope_recall"] = recall(guesses, expected, "oos")
        scores["accuracy"] = accuracy(guesses, expected)
        scores["macro_f1"] = macro_f1(guesses, expected)
        return scores

    def spans(self) -> Mapping[str, Callable[[], Scores]]:
        """SQuAD v1.1's exact match and F1 on its whole development set."""
        return {"squad-v1.1 dev": self._squad}

    def _squad(self) -> Scores:
        questions = [
            Question(qa["id"], qa["question"], paragraph["context"], tuple(qa["answers"]))
            for paragraph in files.read_jsonl(self.data / "qa" / "squad-v1.1-dev.jsonl.gz")
            for qa in paragraph["qas"]
        ][: self.limit]
        objective = extractive_answers(self.recipe, self.tokenizer, [], [], self.head, self.adapter)
        predicted = objective.answer(self.model, questions)
        return {"examples": len(questions), **squad_scores(predicted, [q.answers for q in questions])}

    def masked_tokens(self) -> Mapping[str, Callable[[], Scores]]:
        """Accuracy on masked tokens and on next sentences of WikiText-2."""
        return {"wikitext-2 test": self._masked}

    def _masked(self) -> Scores:
        objective = masked_language_model(
            self.recipe, self.tokenizer, self.config, self.data, ("", "test"), self.head, self.adapter
        )
        return dict(objective.validate(self.model))

    def next_tokens(self) -> Mapping[str, Callable[[], Scores]]:
        """Perplexity a token and bits a byte on WikiText-2."""
        return {"wikitext-2 test": self._perplexity}

    def _perplexity(self) -> Scores:
        texts = ["\n".join(article) for article in files.wikitext_articles(self.data, "test")][: self.limit]
        ids = [list(e.ids) for e in self.tokenizer.encode_batch(texts, add_special_tokens=False)]
        objective = NextToken(
            [],
            ids,
            block=self.recipe.max_length,
            separator=self.model.config.bos_token_id or 0,
            unlearned=unknown_ids(self.tokenizer),
        )
        scores = objective.validate(self.model)
        num_bytes = sum(len(text.replace("<unk>", "").encode()) for text in texts)
        bits = scores["loss"] * scores["tokens"] / math.log(2)
        return {**scores, "bits_per_byte": bits / num_bytes}


_TESTS: Mapping[str, Callable[[_Evaluation], Mapping[str, Callable[[], Scores]]]] = {
    "text-to-text": _Evaluation.translation,
    "classification": _Evaluation.classes,
    "extractive-qa": _Evaluation.spans,
    "masked-lm": _Evaluation.masked_tokens,
    "next-token": _Evaluation.next_tokens,
}
