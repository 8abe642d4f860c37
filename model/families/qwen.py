"""Qwen2 and 2.5 (arXiv:2407.10671), Qwen3 (arXiv:2505.09388): Llama with other biases, then with head norms."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from model.config import Head, TransformerConfig
from model.families import llama
from model.families.family import architecture, read_head

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
    # The published files name a window even where none is used.
    if raw.get("use_sliding_window") or "sliding_attention" in (raw.get("layer_types") or ()):
        raise ValueError("use_sliding_window: sliding windows are not served for this family")
    head = read_head(raw, heads)
    return replace(llama.read({**defaults, **raw, "architectures": None}), head=head)


def _write(config: TransformerConfig, heads: Mapping[str, Head]) -> dict[str, Any]:
    return llama.write(config) | {
        "architectures": [architecture(config, heads)],
        "model_type": config.family,
        "use_sliding_window": False,
    }


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
