"""The pieces of the comparison: each trains one model on one task, scores it, and leaves a row."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from model.training.base import import_base, published_folder
from model.training.checkpoint import drop_checkpoints
from model.training.config import Recipe, Schedule
from model.training.evaluate import evaluate
from model.training.history import recipes
from model.training.history.kneser_ney import KneserNey
from model.training.history.next_word import NextWord
from model.training.history.rows import Row, num_stored, perplexity_row, processor_seconds, scored_row
from model.training.history.word_models import LstmWords, TransformerWords, WordModel
from model.training.history.words import Ids, Vocabulary, article_of_each, fiction_lines, wikitext_lines
from model.training.loop import train
from model.training.recipes import RECIPES
from model.training.stages import copy_tokenizer, read_result, result_folder, run_stage
from model.training.zoo import BASE

_VALIDATED_WORDS = 20_000


@dataclass(frozen=True)
class Places:
    """Where the data are, where runs go, and where the zoo is."""

    data: Path
    runs: Path
    zoo: Path

    def stage(self, piece: str) -> Path:
        """The folder of a piece's training."""
        return self.runs / piece / "stage"


Piece = Callable[[Places], Row]


def _ngram(places: Places, with_fiction: bool) -> Row:
    vocabulary, stream, test, articles = _word_streams(places)
    if with_fiction:
        stream = np.concatenate((stream, vocabulary.stream(fiction_lines(places.data))))
    started = time.process_time()
    model = KneserNey(stream, len(vocabulary), recipes.NGRAM_ORDER)
    processor_s = time.process_time() - started
    return perplexity_row(-np.log(model.probabilities(test)), articles, model.num_entries, processor_s)


def _word_streams(places: Places) -> tuple[Vocabulary, Ids, Ids, Ids]:
    """The vocabulary, training and test text, and the article of each word of the test."""
    train_lines, test_lines = (wikitext_lines(places.data, split) for split in ("train", "test"))
    vocabulary = Vocabulary(train_lines)
    return (
        vocabulary,
        vocabulary.stream(train_lines),
        vocabulary.stream(test_lines),
        article_of_each(test_lines),
    )


def _lstm(places: Places) -> Row:
    return _network(
        places,
        "lstm",
        lambda size: LstmWords(size, recipes.LSTM_SIZE, recipes.LSTM_LAYERS, recipes.DROPOUT),
        recipes.WORDS,
    )


def _transformer(places: Places) -> Row:
    return _network(
        places,
        "transformer",
        lambda size: TransformerWords(size, recipes.DECODER, recipes.DROPOUT),
        replace(recipes.WORDS, max_epochs=recipes.DECODER_EPOCHS),
    )


def _network(places: Places, name: str, make: Callable[[int], WordModel], schedule: Schedule) -> Row:
    vocabulary, stream, test, articles = _word_streams(places)
    validation = vocabulary.stream(wikitext_lines(places.data, "valid"))[:_VALIDATED_WORDS]
    torch.manual_seed(schedule.seed)
    model, stage = make(len(vocabulary)), places.stage(name)
    objective = NextWord(
        stream,
        validation,
        len(vocabulary),
        block=recipes.BLOCK,
        num_frequent=recipes.NUM_FREQUENT,
        num_sampled=recipes.NUM_SAMPLED,
    )
    stage.mkdir(parents=True, exist_ok=True)
    train(model, objective, schedule, stage)
    losses = model.word_losses(torch.from_numpy(test), vocabulary.end_of_line, recipes.BLOCK).double().numpy()
    num_parameters = sum(p.numel() for p in model.parameters())
    row = perplexity_row(losses, articles, num_parameters, processor_seconds(stage))
    drop_checkpoints(stage)
    return row


def _masked_lm(places: Places) -> Row:
    """Pre-training; its row tells how many of the masked test words are guessed."""
    stage = _trained(places, recipes.MASKED_LM, None)
    scores = evaluate(recipes.MASKED_LM, places.data, result_folder(stage))["wikitext-2 test"]
    return scored_row(scores, "masked_accuracy", num_stored(result_folder(stage)), processor_seconds(stage))


def _encoder(places: Places, task: str, is_pretrained: bool) -> Row:
    recipe = recipes.TASKS[task]
    recipe = replace(recipe, name=f"{task}-pretrained" if is_pretrained else f"{task}-scratch")
    start = result_folder(places.stage(recipes.MASKED_LM.name)) if is_pretrained else None
    if not is_pretrained:
        recipe = replace(recipe, architecture=recipes.ENCODER)
    stage = _trained(places, recipe, start)
    folder = result_folder(stage)
    return _scored(recipe, places.data, folder, None, processor_seconds(stage))


def _adapted(places: Places) -> Row:
    recipe = recipes.FEW_ADAPTER
    stage = _trained(places, recipe, places.zoo / BASE)
    return _scored(recipe, places.data, result_folder(stage), places.zoo / BASE, processor_seconds(stage))


def _shipped(places: Places, task: str) -> Row:
    recipe = RECIPES[recipes.SHIPPED[task]]
    return _scored(recipe, places.data, places.zoo / recipe.name, places.zoo / BASE, None)


def _trained(places: Places, recipe: Recipe, start: Path | None) -> Path:
    """The stage of a recipe, run to its end; what is made from nothing reads with MiniLM's tokenizer."""
    stage = places.stage(recipe.name)
    if not read_result(stage):
        stage.mkdir(parents=True, exist_ok=True)
        if start is None:
            copy_tokenizer(places.zoo / BASE, stage)
        run_stage(recipe, places.data, stage, start)
    return stage


def _scored(recipe: Recipe, data: Path, folder: Path, base: Path | None, processor_s: float | None) -> Row:
    num_parameters = num_stored(folder) if base is None else num_stored(folder, base)
    if recipe.objective == "extractive-qa":
        test = "squad-v1.1 dev"
        scores = evaluate(recipe, data, folder, base, only=test, limit=recipes.NUM_QUESTIONS)[test]
        return scored_row(scores, "exact_match", num_parameters, processor_s)
    scores = evaluate(recipe, data, folder, base)[f"{recipe.datasets[0]} test"]
    measure = "in_scope_accuracy" if "in_scope_accuracy" in scores else "accuracy"
    return scored_row(scores, measure, num_parameters, processor_s)


PIECES: Mapping[str, Piece] = {
    "kneser-ney": partial(_ngram, with_fiction=False),
    "kneser-ney-fiction": partial(_ngram, with_fiction=True),
    "few-scratch": partial(_encoder, task="few", is_pretrained=False),
    "few-minilm": _adapted,
    "masked-lm": _masked_lm,
    "few-pretrained": partial(_encoder, task="few", is_pretrained=True),
    "lstm": _lstm,
    "transformer": _transformer,
    **{
        f"{task}-{start}": piece
        for task in recipes.SHIPPED
        for start, piece in (
            ("shipped", partial(_shipped, task=task)),
            ("scratch", partial(_encoder, task=task, is_pretrained=False)),
            ("pretrained", partial(_encoder, task=task, is_pretrained=True)),
        )
    },
}
"""In an order in which each finds what it starts from."""


def run_pieces(places: Places, only: str | None = None) -> None:
    """Runs what is not done yet, or one piece `only`; a piece that was killed goes on from its last checkpoint."""
    if not (places.zoo / BASE / "model.safetensors").exists():
        import_base(published_folder(), places.zoo / BASE)
    for name, piece in PIECES.items():
        if only not in (None, name) or Row.read(places.runs / name):
            continue
        piece(places).save(places.runs / name)
