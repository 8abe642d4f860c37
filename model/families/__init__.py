"""The families: how a published `config.json` and its weight names translate to ours. Torch-free data."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from model.config import CheckpointError, TransformerConfig
from model.families.bert import BERT
from model.families.family import Family, token_ids
from model.families.gpt2 import GPT2
from model.families.llama import LLAMA
from model.families.qwen import QWEN2, QWEN3
from model.families.t5 import T5

FAMILIES: Mapping[str, Family] = {
    family.model_type: family for family in (BERT, T5, GPT2, LLAMA, QWEN2, QWEN3)
}
"""By the `model_type` of `config.json`."""

_SIZES = frozenset(
    (
        *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "head_dim", "max_position_embeddings", "n_positions", "n_embd", "n_inner"),
        *("n_layer", "n_head", "d_model", "d_ff", "d_kv", "num_layers", "num_decoder_layers", "num_heads"),
    )
)
"""Checked before a family divides by them, so that the message can name the key."""


def read_config(folder: Path) -> TransformerConfig:
    """The config of the checkpoint in `folder`; raises CheckpointError where we cannot serve it."""
    file = folder / "config.json"
    raw = read_json(file)
    model_type = raw.get("model_type")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        known = ", ".join(sorted(FAMILIES))
        raise CheckpointError(f"{file}: unknown model_type {model_type!r:.40}; known: {known}")
    for key in _SIZES.intersection(raw):
        if raw[key] is not None and (type(raw[key]) is not int or raw[key] < 1):
            raise CheckpointError(f"{file}: {key} must be a whole number from 1, not {raw[key]!r:.40}")
    try:
        config = FAMILIES[model_type].read(raw)
    except KeyError as missing:
        raise CheckpointError(f"{file}: {missing} is missing") from None
    except (CheckpointError, ArithmeticError, AttributeError, IndexError, TypeError, ValueError) as fault:
        raise CheckpointError(f"{file}: {fault}") from None
    return config if config.kind == "encoder" else _with_end_tokens(config, folder)


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


def _with_end_tokens(config: TransformerConfig, folder: Path) -> TransformerConfig:
    """Where both files name end tokens, `generation_config.json` counts, as in `transformers`."""
    file = folder / "generation_config.json"
    ends = token_ids(read_json(file).get("eos_token_id")) if file.is_file() else ()
    try:
        return replace(config, eos_token_ids=ends) if ends else config
    except CheckpointError as fault:
        raise CheckpointError(f"{file}: {fault}") from None
