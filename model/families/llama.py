"""Llama (Touvron et al. 2023, arXiv:2302.13971): a pre-norm decoder with rotary positions."""

from collections.abc import Mapping
from typing import Any

from model.config import Head, TransformerConfig
from model.families.family import (
    Family,
    architecture,
    keep,
    one_or_list,
    pad_token,
    read_head,
    token_ids,
)
from model.families.rope import read_rope, write_rope

HEADS: Mapping[str, Head] = {"LlamaForCausalLM": "lm"}


def read(raw: Mapping[str, Any]) -> TransformerConfig:
    """Published to ours."""
    size, num_heads = raw["hidden_size"], raw["num_attention_heads"]
    head_dim = raw.get("head_dim") or size // num_heads
    has_bias = raw.get("attention_bias", False)
    return TransformerConfig(
        family="llama",
        kind="decoder",
        head=read_head(raw, HEADS),
        vocab_size=raw["vocab_size"],
        hidden_size=size,
        intermediate_size=raw["intermediate_size"],
        num_decoder_layers=raw["num_hidden_layers"],
        num_heads=num_heads,
        num_kv_heads=raw.get("num_key_value_heads") or num_heads,
        head_dim=head_dim,
        position="rotary",
        **read_rope(raw),
        norm="rmsnorm",
        norm_eps=raw.get("rms_norm_eps", 1e-6),
        pre_norm=True,
        activation=raw.get("hidden_act", "silu"),
        gated_mlp=True,
        attention_bias=has_bias,
        output_bias=has_bias,
        mlp_bias=raw.get("mlp_bias", False),
        attention_scale=head_dim**-0.5,
        tie_embeddings=raw.get("tie_word_embeddings", False),
        initializer_range=raw.get("initializer_range", 0.02),
        pad_token_id=pad_token(raw),
        bos_token_id=raw.get("bos_token_id"),
        eos_token_ids=token_ids(raw.get("eos_token_id")),
        extra=keep(raw),
    )


def write(config: TransformerConfig) -> dict[str, Any]:
    """Ours to published."""
    return write_rope(config) | {
        "architectures": [architecture(config, HEADS)],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_decoder_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "rms_norm_eps": config.norm_eps,
        "hidden_act": config.activation,
        "attention_bias": config.attention_bias,
        "mlp_bias": config.mlp_bias,
        "tie_word_embeddings": config.tie_embeddings,
        "initializer_range": config.initializer_range,
        "pad_token_id": config.pad_token_id,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": one_or_list(config.eos_token_ids),
    }


_LAYER = "model.layers.{i}"

LLAMA = Family(
    model_type="llama",
    heads=HEADS,
    read=read,
    write=write,
    base_prefix="model.",
    harmless=r".*\.rotary_emb\.inv_freq",
    weights={
        "embeddings.words": "model.embed_tokens",
        "lm_head": "lm_head",
        "decoder.final_norm": "model.norm",
        "decoder.layers.{i}.self_attention.query": f"{_LAYER}.self_attn.q_proj",
        "decoder.layers.{i}.self_attention.key": f"{_LAYER}.self_attn.k_proj",
        "decoder.layers.{i}.self_attention.value": f"{_LAYER}.self_attn.v_proj",
        "decoder.layers.{i}.self_attention.output": f"{_LAYER}.self_attn.o_proj",
        "decoder.layers.{i}.self_norm": f"{_LAYER}.input_layernorm",
        "decoder.layers.{i}.mlp.gate": f"{_LAYER}.mlp.gate_proj",
        "decoder.layers.{i}.mlp.up": f"{_LAYER}.mlp.up_proj",
        "decoder.layers.{i}.mlp.down": f"{_LAYER}.mlp.down_proj",
        "decoder.layers.{i}.mlp_norm": f"{_LAYER}.post_attention_layernorm",
    },
)
