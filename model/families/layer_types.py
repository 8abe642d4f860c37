"""Layers of two kinds, full and sliding, as published configs name them: their windows and their thetas."""

from collections.abc import Mapping, Sequence
from typing import Any

from model.config import TransformerConfig

FULL, SLIDING = "full_attention", "sliding_attention"


def read_layer_types(raw: Mapping[str, Any], pattern: Sequence[str]) -> list[str]:
    """The kind of each layer: as listed, or `pattern` from the first layer on, over and over."""
    num_layers = raw["num_hidden_layers"]
    listed = raw.get("layer_types")
    kinds = list(listed or (pattern[i % len(pattern)] for i in range(num_layers)))
    for kind in kinds:
        if kind not in (FULL, SLIDING):
            raise ValueError(f"layers of type {kind!r} are not served")
    return kinds


def read_layer_rope(raw: Mapping[str, Any], kind: str, old_key: str, theta: float) -> dict[str, Any]:
    """How one kind of layer turns: theta and scaling, from `rope_parameters` or the older flat keys."""
    nested = raw.get("rope_parameters") or {}
    if nested and not {FULL, SLIDING} & set(nested):
        raise ValueError("rope_parameters that are not by type of layer are not served")
    rope = {"rope_type": "default"} | (nested.get(kind) or {})
    return rope | {"rope_theta": float(rope.get("rope_theta", raw.get(old_key, theta)))}


def write_layer_types(config: TransformerConfig) -> dict[str, Any]:
    """The kind of each layer, and how each kind turns."""
    windows = config.layer_windows
    kinds = [SLIDING if window else FULL for window in windows]
    thetas = dict(zip(kinds, config.layer_rope_thetas, strict=True))
    scaling = dict(config.rope_scaling) or {"rope_type": "default"}
    return {
        "layer_types": kinds,
        "rope_parameters": {
            FULL: scaling | {"rope_theta": thetas.get(FULL, config.rope_theta)},
            SLIDING: {"rope_type": "default", "rope_theta": thetas.get(SLIDING, config.rope_theta)},
        },
    }
