"""The families: how a published `config.json` and its weight names translate to ours. Torch-free data."""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from model.config import NO_ANSWER, CheckpointError, TransformerConfig
from model.families.bart import BART
from model.families.bert import BERT
from model.families.deberta import DEBERTA
from model.families.distilbert import DISTILBERT
from model.families.family import Family
from model.families.gemma3 import GEMMA3
from model.families.gpt2 import GPT2
from model.families.llama import LLAMA
from model.families.m2m100 import M2M100
from model.families.marian import MARIAN
from model.families.mbart import MBART
from model.families.mistral import MISTRAL
from model.families.modernbert import MODERNBERT
from model.families.mt5 import MT5
from model.families.pegasus import PEGASUS
from model.families.qwen import QWEN2, QWEN3
from model.families.roberta import ROBERTA, XLM_ROBERTA
from model.families.t5 import T5
from model.generation_config import GenerationConfig, parse_generation_config, parse_task_params

_ENCODERS = (BERT, ROBERTA, XLM_ROBERTA, DISTILBERT, DEBERTA, MODERNBERT)
_ENCODER_DECODERS = (T5, MT5, BART, MBART, MARIAN, M2M100, PEGASUS)
_DECODERS = (GPT2, LLAMA, MISTRAL, QWEN2, QWEN3, GEMMA3)
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

_SIZES = frozenset(
    (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "head_dim", "max_position_embeddings", "n_positions", "n_embd", "n_inner"),
        *("n_layer", "n_head", "d_model", "d_ff", "d_kv", "num_layers", "num_decoder_layers", "num_heads"),
        *("encoder_layers", "encoder_attention_heads", "encoder_ffn_dim", "dim", "hidden_dim", "n_layers"),
        *("decoder_layers", "decoder_attention_heads", "decoder_ffn_dim", "n_heads"),
    )
)
"""Checked before a family divides by them, so that the message can name the key."""


def read_config(folder: Path) -> TransformerConfig:
    """The config of the checkpoint in `folder`; raises CheckpointError where we cannot serve it."""
    file = folder / "config.json"
    raw = read_json(file)
    model_type = raw.get("model_type")
    if isinstance(model_type, str) and model_type in NOT_SERVED:
        raise CheckpointError(f"{file}: {model_type} is not served: {NOT_SERVED[model_type]}")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise CheckpointError(f"{file}: unknown model_type {model_type!r:.40}; known: {known}")
    for key in _SIZES.intersection(raw):
        if raw[key] is not None and (type(raw[key]) is not int or raw[key] < 1):
            raise CheckpointError(f"{file}: {key} must be a whole number from 1, not {raw[key]!r:.40}")
    no_answer = raw.get("quartet", {}).get(NO_ANSWER, 0.0) if isinstance(raw.get("quartet"), dict) else 0.0
    if type(no_answer) not in (int, float) or not math.isfinite(no_answer):
        raise CheckpointError(f"{file}: quartet.{NO_ANSWER} must be a number, not {no_answer!r:.40}")
    try:
        config = FAMILIES[model_type].read(raw)
    except KeyError as missing:
        raise CheckpointError(f"{file}: {missing} is missing") from None
    except (CheckpointError, ArithmeticError, AttributeError, IndexError, TypeError, ValueError) as fault:
        raise CheckpointError(f"{file}: {fault}") from None
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
    that older checkpoints keep in `config.json`; what a task does otherwise is always there. Raises CheckpointError
    that names file and key."""
    file, shape = folder / GENERATION, folder / "config.json"
    of_tasks = read_json(shape).get("task_specific_params") if shape.is_file() else None
    file = file if file.is_file() else shape
    config = parse_generation_config(read_json(file), file, vocab_size)
    if not isinstance(of_tasks, Mapping):
        return config
    return replace(config, task_params=parse_task_params(of_tasks, shape, vocab_size))


def read_adapter_config(base: TransformerConfig, folder: Path) -> TransformerConfig:
    """What the base becomes under the adapter in `folder`: another head, other labels.

    A folder as `peft` leaves it has no `config.json`: the adapter changes weights alone.
    """
    file = folder / "config.json"
    if not file.is_file():
        return base
    config = read_config(folder)
    for name in ("family", "vocab_size", "hidden_size", "num_encoder_layers", "num_decoder_layers"):
        ours, theirs = getattr(base, name), getattr(config, name)
        if ours != theirs:
            raise CheckpointError(f"{file}: not an adapter for this base: {name} is {theirs}, not {ours}")
    return config


def to_hf_config(config: TransformerConfig) -> dict[str, Any]:
    """The `config.json` with which `transformers` builds the same Transformer."""
    return dict(config.extra) | FAMILIES[config.family].write(config)


def published_name(parameter: str, config: TransformerConfig) -> str:
    """What the config's family calls a parameter of ours."""
    return FAMILIES[config.family].published_name(parameter, config)


def read_json(file: Path, unique_keys: bool = False) -> dict[str, Any]:
    """A JSON object from a checkpoint folder; raises CheckpointError that names the file.

    `unique_keys` refuses an object that has a key twice, where otherwise the last one counts.
    """
    hook = _refuse_twins if unique_keys else None
    try:
        value = json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=hook)
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing") from None
    except (OSError, ValueError, RecursionError) as fault:
        raise CheckpointError(f"{file}: {fault}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{file}: not a JSON object")
    return value


def _refuse_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twin = next(key for key in keys if keys.count(key) > 1)
        raise ValueError(f"{twin} is there twice")
    return value
