"""Mistral (Jiang et al. 2023, arXiv:2310.06825): Llama's layers, each with the same attention window or none."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from model.config import Head, TransformerConfig
from model.families import llama
from model.families.family import Family, read_head

HEADS: Mapping[str, Head] = {"MistralForCausalLM": "lm"}


def read(raw: Mapping[str, Any]) -> TransformerConfig:
    """Published to ours."""
    head = read_head(raw, HEADS)
    defaults = {"num_key_value_heads": 8, "max_position_embeddings": 131072}
    fixed = {"architectures": None, "attention_bias": False, "mlp_bias": False}
    config = llama.read(defaults | dict(raw) | fixed)
    window = raw.get("sliding_window", 4096)  # null: none
    windows = () if window is None else (window,) * config.num_decoder_layers
    if 0 in windows:
        raise ValueError("sliding_window 0 is not served")
    return replace(config, family="mistral", head=head, layer_windows=windows)


def write(config: TransformerConfig) -> dict[str, Any]:
    """Ours to published."""
    window = config.layer_windows[0] if config.layer_windows else None
    return llama.write(config) | {
        "architectures": ["MistralForCausalLM"],
        "model_type": "mistral",
        "sliding_window": window,
    }


MISTRAL = Family(
    model_type="mistral",
    heads=HEADS,
    read=read,
    write=write,
    base_prefix=llama.LLAMA.base_prefix,
    harmless=llama.LLAMA.harmless,
    weights=llama.LLAMA.weights,
)
