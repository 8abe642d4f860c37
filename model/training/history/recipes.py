"""What the comparison trains, each for a number of steps and never by the clock: it comes out the same again."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from model.training.config import Recipe, Schedule
from model.training.recipes import RECIPES

_NO_CLOCK = 1e6
"""Minutes, so many that no learning rate follows them."""

NGRAM_ORDER = 5
BLOCK = 128
"""Words in a row that the networks learn from, and the most that they see of a test text."""
DROPOUT = 0.1
LSTM_SIZE, LSTM_LAYERS = 256, 2

DECODER: Mapping[str, Any] = {
    "hidden_size": LSTM_SIZE,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": BLOCK,
    "tie_word_embeddings": True,
}

WORDS = Schedule(
    learning_rate=1e-3,
    max_epochs=3,
    max_minutes=_NO_CLOCK,
    warmup_steps=100,
    batch_tokens=2048,
    seed=17,
)
"""The LSTM's; the Transformer, whose steps take longer, makes `DECODER_EPOCHS` passes instead."""
DECODER_EPOCHS = 2
NUM_FREQUENT, NUM_SAMPLED = 1000, 1048
"""Words scored in each step: see `NextWord`."""

FEW = 10
"""Examples of each intent where labels are few."""
NUM_QUESTIONS = 2000
"""Of SQuAD's development set, so many are asked."""

_BERT = RECIPES["bert"]
ENCODER: Mapping[str, Any] = {**(_BERT.architecture or {}), "max_position_embeddings": 128}
MASKED_LM = replace(
    _BERT,
    name="masked-lm",
    architecture=ENCODER,
    dropout=0.0,
    schedule=replace(
        _BERT.schedule,
        learning_rate=7e-4,
        max_epochs=2,
        max_steps=1000,
        max_minutes=_NO_CLOCK,
        warmup_steps=160,
        batch_tokens=2048,
    ),
)


def _encoder(name: str, of: str, schedule: Schedule, **changes: Any) -> Recipe:
    """A shipped adapter's task, for every weight of a small encoder."""
    recipe = replace(RECIPES[of], name=name, start=MASKED_LM.name, lora=None, dropout=DROPOUT, **changes)
    return replace(recipe, schedule=schedule)


_LABELS = Schedule(
    learning_rate=5e-4, max_epochs=6, max_minutes=_NO_CLOCK, warmup_steps=100, batch_tokens=1536
)

TASKS: Mapping[str, Recipe] = {
    "few": _encoder(
        "few", "intent", replace(_LABELS, max_epochs=40, batch_tokens=768), options={"per_label": FEW}
    ),
    "intent": _encoder("intent", "intent", _LABELS),
    "banking": _encoder("banking", "banking", replace(_LABELS, max_epochs=8)),
    "questions": _encoder(
        "questions",
        "qa",
        replace(_LABELS, max_epochs=1, max_steps=700, batch_tokens=2048),
        max_length=128,
        options={},
    ),
}
"""The tasks of the encoders; each is learnt from random weights too."""

_INTENT = RECIPES["intent"]
FEW_ADAPTER = replace(
    _INTENT,
    name="few-minilm",
    options={"per_label": FEW},
    schedule=replace(_INTENT.schedule, max_epochs=15, max_minutes=_NO_CLOCK),
)
"""As the shipped `intent` is made, from few examples."""

SHIPPED: Mapping[str, str] = {"intent": "intent", "banking": "banking", "questions": "qa"}
"""Whose adapter on MiniLM is already trained: it is only scored."""
