"""The families: how a published `config.json` and its weight names translate to ours. Torch-free data."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from model.config import CheckpointError, TransformerConfig
from model.families.bert import BERT
from model.families.deberta import DEBERTA
from model.families.distilbert import DISTILBERT
from model.families.family import Family
from model.families.gemma3 import GEMMA3
from model.families.llama import LLAMA
from model.families.mistral import MISTRAL
from model.families.modernbert import MODERNBERT
from model.families.roberta import ROBERTA, XLM_ROBERTA
from model.families.t5 import T5

_ALL = (
    *(BERT, ROBERTA, XLM_ROBERTA, DISTILBERT, DEBERTA, MODERNBERT),
    *(T5,),
    *(LLAMA, MISTRAL, GEMMA3),
)
FAMILIES: Mapping[str, Family] = {family.model_type: family for family in _ALL}
"""By the `model_type` of `config.json`."""

REFUSED: Mapping[str, str] = {
    "gemma3": "Gemma 3 with images (Gemma3ForConditionalGeneration) is not served; its text models are",
}
"""Model types that we know and do not serve, and what to say."""


def read_config(folder: Path) -> TransformerConfig:
    """The config of the checkpoint in `folder`; raises CheckpointError where we cannot serve it."""
    raw = read_json(folder / "config.json")
    model_type = raw.get("model_type")
    if isinstance(model_type, str) and model_type in REFUSED:
        raise CheckpointError(f"{folder / 'config.json'}: {REFUSED[model_type]}")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise CheckpointError(f"{folder / 'config.json'}: unknown model_type {model_type!r}; known: {known}")
    try:
        return FAMILIES[model_type].read(raw)
    except KeyError as missing:
        raise CheckpointError(f"{folder / 'config.json'}: {missing} is missing") from None
    except (TypeError, ValueError) as fault:
        raise CheckpointError(f"{folder / 'config.json'}: {fault}") from None


def to_hf_config(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` with which `transformers` builds the same Transformer."""
    return dict(config.extra) | FAMILIES[config.family].write(config)


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a checkpoint folder; raises CheckpointError that names the file."""
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing") from None
    except (OSError, ValueError, RecursionError) as fault:
        raise CheckpointError(f"{file}: {fault}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: not a JSON object")
    return value
