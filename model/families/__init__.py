"""The families: how a published `config.json` and its weight names translate to ours. Torch-free data."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from model.config import CheckpointError, TransformerConfig
from model.families.bart import BART
from model.families.bert import BERT
from model.families.deberta import DEBERTA
from model.families.distilbert import DISTILBERT
from model.families.family import Family
from model.families.gemma3 import GEMMA3
from model.families.llama import LLAMA
from model.families.m2m100 import M2M100
from model.families.marian import MARIAN
from model.families.mbart import MBART
from model.families.mistral import MISTRAL
from model.families.modernbert import MODERNBERT
from model.families.mt5 import MT5
from model.families.pegasus import PEGASUS
from model.families.roberta import ROBERTA, XLM_ROBERTA
from model.families.t5 import T5
from model.generation_config import GenerationConfig, parse_generation_config

_ENCODERS = (BERT, ROBERTA, XLM_ROBERTA, DISTILBERT, DEBERTA, MODERNBERT)
_ENCODER_DECODERS = (T5, MT5, BART, MBART, MARIAN, M2M100, PEGASUS)
_DECODERS = (LLAMA, MISTRAL, GEMMA3)
FAMILIES: Mapping[str, Family] = {
    family.model_type: family for family in (*_ENCODERS, *_ENCODER_DECODERS, *_DECODERS)
}
"""By the `model_type` of `config.json`."""

NOT_SERVED: Mapping[str, str] = {
    "gemma3": "it reads images too; Gemma's text models (gemma3_text) are served",
    "umt5": "each of its layers has a relative bias of its own, and ours share one (mt5 is served)",
}
"""Why a `model_type` that is a near relative of a family is none."""

GENERATION = "generation_config.json"


def read_config(folder: Path) -> TransformerConfig:
    """The config of the checkpoint in `folder`; raises CheckpointError where we cannot serve it."""
    raw = read_json(folder / "config.json")
    model_type = raw.get("model_type")
    if isinstance(model_type, str) and model_type in NOT_SERVED:
        raise CheckpointError(
            f"{folder / 'config.json'}: {model_type} is not served: {NOT_SERVED[model_type]}"
        )
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise CheckpointError(f"{folder / 'config.json'}: unknown model_type {model_type!r}; known: {known}")
    try:
        config = FAMILIES[model_type].read(raw)
    except KeyError as missing:
        raise CheckpointError(f"{folder / 'config.json'}: {missing} is missing") from None
    except (CheckpointError, TypeError, ValueError) as fault:
        raise CheckpointError(f"{folder / 'config.json'}: {fault}") from None
    if config.kind == "encoder":
        return config
    generation = read_generation_config(folder, config.vocab_size)
    start = generation.decoder_start_token_id
    return replace(
        config,
        eos_token_ids=generation.eos_token_ids or config.eos_token_ids,
        decoder_start_token_id=config.decoder_start_token_id if start is None else start,
    )


def read_generation_config(folder: Path, vocab_size: int) -> GenerationConfig:
    """How the checkpoint's makers generate with it: `generation_config.json`, or where there is none the keys
    that older checkpoints keep in `config.json`. Raises CheckpointError that names file and key."""
    file = folder / GENERATION
    file = file if file.is_file() else folder / "config.json"
    return parse_generation_config(read_json(file), file, vocab_size)


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
