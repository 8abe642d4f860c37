"""Gemma 3 without images (Gemma Team 2025, arXiv:2503.19786): a decoder of windowed and full layers.

Norms stand before and after attention and feed-forward, on each head's queries and keys too, and store
the distance of their weights from one. Windowed layers turn by a theta of their own.
"""

from collections.abc import Mapping
from typing import Any

from model.config import Head, TransformerConfig
from model.families.family import Family, architecture, keep, one_or_list, pad_token, read_head, token_ids
from model.families.layer_types import FULL, SLIDING, read_layer_rope, read_layer_types, write_layer_types

HEADS: Mapping[str, Head] = {"Gemma3ForCausalLM": "lm"}


def read(raw: Mapping[str, Any]) -> TransformerConfig:
    """Published to ours."""
    for key in ("attn_logit_softcapping", "final_logit_softcapping", "use_bidirectional_attention"):
        if raw.get(key):
            raise ValueError(f"{key} {raw[key]} is not served")
    # The pattern was published as a number before the types were: every so many layers a full one.
    every = raw.get("sliding_window_pattern") or raw.get("_sliding_window_pattern") or 6
    kinds = read_layer_types(raw, [SLIDING] * (every - 1) + [FULL])
    window = raw.get("sliding_window", 4096)
    if SLIDING in kinds and not window:
        raise ValueError("sliding_attention layers without a sliding_window")
    full = read_layer_rope(raw, FULL, "rope_theta", 1_000_000.0)
    local = read_layer_rope(raw, SLIDING, "rope_local_base_freq", 10_000.0)
    scaling = {key: value for key, value in full.items() if key != "rope_theta"}
    scaling |= raw.get("rope_scaling") or {}
    stretch = scaling.get("type", scaling["rope_type"])
    if stretch not in ("default", "linear") or local["rope_type"] != "default":
        raise ValueError(f"rope scaling of kind {stretch!r}, local {local['rope_type']!r}, is not served")
    size, num_heads = raw["hidden_size"], raw["num_attention_heads"]
    has_bias = raw.get("attention_bias", False)
    return TransformerConfig(
        family="gemma3_text",
        kind="decoder",
        head=read_head(raw, HEADS),
        vocab_size=raw["vocab_size"],
        hidden_size=size,
        intermediate_size=raw["intermediate_size"],
        num_decoder_layers=raw["num_hidden_layers"],
        num_heads=num_heads,
        num_kv_heads=raw.get("num_key_value_heads", 4),
        head_dim=raw.get("head_dim", 256),
        max_positions=raw.get("max_position_embeddings", 131072),
        position="rotary",
        rope_theta=full["rope_theta"],
        rope_scaling=(
            {"rope_type": "linear", "factor": float(scaling["factor"])} if stretch == "linear" else {}
        ),
        layer_windows=tuple(window if kind == SLIDING else 0 for kind in kinds),
        layer_rope_thetas=tuple((local if kind == SLIDING else full)["rope_theta"] for kind in kinds),
        norm="rmsnorm",
        norm_eps=raw.get("rms_norm_eps", 1e-6),
        norm_offset=1.0,
        pre_norm=True,
        sandwich_norm=True,
        qk_norm=True,
        activation=raw.get("hidden_activation", "gelu_pytorch_tanh"),
        gated_mlp=True,
        attention_bias=has_bias,
        output_bias=has_bias,
        mlp_bias=False,
        attention_scale=raw.get("query_pre_attn_scalar", 256) ** -0.5,
        embedding_scale=size**0.5,
        tie_embeddings=raw.get("tie_word_embeddings", True),
        initializer_range=raw.get("initializer_range", 0.02),
        pad_token_id=pad_token(raw),
        bos_token_id=raw.get("bos_token_id", 2),
        eos_token_ids=token_ids(raw.get("eos_token_id", 1)),
        extra=keep(raw),
    )


def write(config: TransformerConfig) -> dict[str, Any]:
    """Ours to published."""
    return write_layer_types(config) | {
        "architectures": [architecture(config, HEADS)],
        "model_type": "gemma3_text",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_decoder_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_positions,
        "sliding_window": max(config.layer_windows, default=0) or None,
        "rms_norm_eps": config.norm_eps,
        "hidden_activation": config.activation,
        "attention_bias": config.attention_bias,
        "query_pre_attn_scalar": round(config.attention_scale**-2),
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.initializer_range,
        "pad_token_id": config.pad_token_id,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": one_or_list(config.eos_token_ids),
    }


_LAYER = "model.layers.{i}"

GEMMA3 = Family(
    model_type="gemma3_text",
    heads=HEADS,
    read=read,
    write=write,
    base_prefix="model.",
    weights={
        "embeddings.words": "model.embed_tokens",
        "lm_head": "lm_head",
        "decoder.final_norm": "model.norm",
        "decoder.layers.{i}.self_attention.query": f"{_LAYER}.self_attn.q_proj",
        "decoder.layers.{i}.self_attention.key": f"{_LAYER}.self_attn.k_proj",
        "decoder.layers.{i}.self_attention.value": f"{_LAYER}.self_attn.v_proj",
        "decoder.layers.{i}.self_attention.output": f"{_LAYER}.self_attn.o_proj",
        "decoder.layers.{i}.self_attention.query_norm": f"{_LAYER}.self_attn.q_norm",
        "decoder.layers.{i}.self_attention.key_norm": f"{_LAYER}.self_attn.k_norm",
        "decoder.layers.{i}.self_norm": f"{_LAYER}.input_layernorm",
        "decoder.layers.{i}.self_post_norm": f"{_LAYER}.post_attention_layernorm",
        "decoder.layers.{i}.mlp.gate": f"{_LAYER}.mlp.gate_proj",
        "decoder.layers.{i}.mlp.up": f"{_LAYER}.mlp.up_proj",
        "decoder.layers.{i}.mlp.down": f"{_LAYER}.mlp.down_proj",
        "decoder.layers.{i}.mlp_norm": f"{_LAYER}.pre_feedforward_layernorm",
        "decoder.layers.{i}.mlp_post_norm": f"{_LAYER}.post_feedforward_layernorm",
    },
)
