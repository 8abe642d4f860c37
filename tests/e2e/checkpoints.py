"""Tiny random checkpoints of every kind, as folders, with a tokenizer that has one token per byte."""

import json
from pathlib import Path
from typing import Any

import torch

from model.config import TransformerConfig
from model.loading import save_model
from tests.api.folders import byte_tokenizer
from tests.tiny import BERT, LLAMA, T5, random_model

LANGUAGES = {
    "translation_en_to_de": {"prefix": "<2de> "},
    "translation_en_to_fr": {"prefix": "<2fr> "},
}


def write_checkpoints(root: Path) -> dict[str, Path]:
    """Name → folder."""
    size = byte_tokenizer(pair_template=False).get_vocab_size()
    encoder: dict[str, Any] = {"vocab_size": size, "max_positions": 256}
    models: dict[str, tuple[TransformerConfig, dict[str, Any]]] = {
        "writer": (
            LLAMA,
            {"vocab_size": size, "max_positions": 2048, "bos_token_id": None, "eos_token_ids": (1,)},
        ),
        "translator": (T5, {"vocab_size": size, "extra": {"task_specific_params": LANGUAGES}}),
        "mood": (BERT, encoder),
        "reader": (BERT, encoder | {"head": "span", "labels": ()}),
        "filler": (BERT, encoder | {"head": "masked-lm", "labels": ()}),
        "sentences": (BERT, encoder | {"head": "none", "labels": ()}),
    }
    folders = {}
    for name, (config, changes) in models.items():
        folder = root / name
        save_model(random_model(config, dtype=torch.float32, **changes), folder)
        is_encoder = config.kind == "encoder"
        byte_tokenizer(pair_template=is_encoder).save(str(folder / "tokenizer.json"))
        tokens = {"mask_token": "[MASK]", "cls_token": "[CLS]"} if is_encoder else {"eos_token": "</s>"}
        (folder / "tokenizer_config.json").write_text(json.dumps(tokens))
        folders[name] = folder
    return folders
