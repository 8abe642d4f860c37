"""Qwen2 and 2.5 (arXiv:2407.10671), Qwen3 (arXiv:2505.09388): Llama with other biases, then with head norms."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from model.config import Head, TransformerConfig
from model.families import llama
from model.families.family import architecture, read_head
from model.families.layer_types import FULL, SLIDING, read_layer_types

QWEN2_HEADS: Mapping[str, Head] = {"Qwen2ForCausalLM": "lm"}
QWEN3_HEADS: Mapping[str, Head] = {"Qwen3ForCausalLM": "lm"}
_DEFAULTS = {"max_position_embeddings": 32768, "num_key_value_heads": 32, "tie_word_embeddings": False}


def read_qwen2(raw: Mapping[str, Any]) -> TransformerConfig:
    """Published to ours: queries, keys and values have a bias, outputs have none."""
    config = _read(raw, QWEN2_HEADS, _DEFAULTS)
    return replace(config, family="qwen2", attention_bias=True, output_bias=False, mlp_bias=False)


def read_qwen3(raw: Mapping[str, Any]) -> TransformerConfig:
    """Published to ours: no bias, but a norm on each head."""
    config = _read(raw, QWEN3_HEADS, _DEFAULTS | {"head_dim": 128})
    return replace(config, family="qwen3", qk_norm=True, mlp_bias=False)


def _read(
    raw: Mapping[str, Any], heads: Mapping[str, Head], defaults: Mapping[str, Any]
) -> TransformerConfig:
    head = read_head(raw, heads)
    config = llama.read({**defaults, **raw, "architectures": None})
    return replace(config, head=head, layer_windows=_read_windows(raw))


def _read_windows(raw: Mapping[str, Any]) -> tuple[int, ...]:
    """Of each layer, those before `max_window_layers` being full where no types are listed.

    The published files name a window even where `use_sliding_window` says that none is used.
    """
    window = raw.get("sliding_window", 4096) if raw.get("use_sliding_window") else None
    num_full = raw["num_hidden_layers"] if window is None else raw.get("max_window_layers", 28)
    pattern = [FULL if i < num_full else SLIDING for i in range(raw["num_hidden_layers"])]
    kinds = read_layer_types(raw, pattern)
    if SLIDING not in kinds:
        return ()
    if not window:
        raise ValueError("layer_types ask for a window, but sliding_window is not set or not used")
    return tuple(window if kind == SLIDING else 0 for kind in kinds)


def _write(config: TransformerConfig, heads: Mapping[str, Head]) -> dict[str, Any]:
    raw = llama.write(config) | {
        "architectures": [architecture(config, heads)],
        "model_type": config.family,
        "use_sliding_window": any(config.layer_windows),
    }
    if any(config.layer_windows):
        kinds = [SLIDING if window else FULL for window in config.layer_windows]
        raw |= {"layer_types": kinds, "max_window_layers": kinds.index(SLIDING)}
        raw["sliding_window"] = max(config.layer_windows)
    return raw


def write_qwen2(config: TransformerConfig) -> dict[str, Any]:
    """Ours to published."""
    return _write(config, QWEN2_HEADS)


def write_qwen3(config: TransformerConfig) -> dict[str, Any]:
    """Ours to published."""
    return _write(config, QWEN3_HEADS)


_ATTENTION = "model.layers.{i}.self_attn"

QWEN2 = replace(llama.LLAMA, model_type="qwen2", heads=QWEN2_HEADS, read=read_qwen2, write=write_qwen2)
QWEN3 = replace(
    llama.LLAMA,
    model_type="qwen3",
    heads=QWEN3_HEADS,
    read=read_qwen3,
    write=write_qwen3,
    weights={
        **llama.LLAMA.weights,
        "decoder.layers.{i}.self_attention.query_norm": f"{_ATTENTION}.q_norm",
        "decoder.layers.{i}.self_attention.key_norm": f"{_ATTENTION}.k_norm",
    },
)
