"""GPT-2 (Radford et al. 2019): a pre-norm decoder with learned positions."""

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

HEADS: Mapping[str, Head] = {"GPT2LMHeadModel": "lm"}


def read(raw: Mapping[str, Any]) -> TransformerConfig:
    """Published to ours."""
    if raw.get("scale_attn_by_inverse_layer_idx"):
        raise ValueError("scale_attn_by_inverse_layer_idx: scores scaled by the layer are not served")
    if raw.get("add_cross_attention"):
        raise ValueError("add_cross_attention: GPT-2 as the decoder of another encoder is not served")
    size, num_heads = raw["n_embd"], raw["n_head"]
    if size % num_heads:
        raise ValueError(f"n_embd {size} is not a multiple of n_head {num_heads}")
    head_dim = size // num_heads
    inner = raw.get("n_inner")
    return TransformerConfig(
        family="gpt2",
        kind="decoder",
        head=read_head(raw, HEADS),
        vocab_size=raw["vocab_size"],
        hidden_size=size,
        intermediate_size=4 * size if inner is None else inner,
        num_decoder_layers=raw["n_layer"],
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=head_dim,
        max_positions=raw.get("n_positions", 1024),
        position="learned",
        norm="layernorm",
        norm_eps=raw.get("layer_norm_epsilon", 1e-5),
        pre_norm=True,
        activation=raw.get("activation_function", "gelu_new"),
        attention_bias=True,
        output_bias=True,
        mlp_bias=True,
        attention_scale=head_dim**-0.5 if raw.get("scale_attn_weights", True) else 1.0,
        tie_embeddings=raw.get("tie_word_embeddings", True),
        dropout=raw.get("resid_pdrop", 0.1),
        initializer_range=raw.get("initializer_range", 0.02),
        pad_token_id=pad_token(raw),
        bos_token_id=raw.get("bos_token_id", 50256),
        eos_token_ids=token_ids(raw.get("eos_token_id", 50256)),
        extra=keep(raw),
    )


def write(config: TransformerConfig) -> dict[str, Any]:
    """Ours to published."""
    return {
        "architectures": [architecture(config, HEADS)],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_embd": config.hidden_size,
        "n_inner": config.intermediate_size,
        "n_layer": config.num_decoder_layers,
        "n_head": config.num_heads,
        "n_positions": config.max_positions,
        "layer_norm_epsilon": config.norm_eps,
        "activation_function": config.activation,
        "scale_attn_weights": config.attention_scale != 1.0,
        "tie_word_embeddings": config.tie_embeddings,
        "resid_pdrop": config.dropout,
        "embd_pdrop": config.dropout,
        "attn_pdrop": config.dropout,
        "initializer_range": config.initializer_range,
        "pad_token_id": config.pad_token_id,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": one_or_list(config.eos_token_ids),
    }


_LAYER = "transformer.h.{i}"

GPT2 = Family(
    model_type="gpt2",
    heads=HEADS,
    read=read,
    write=write,
    base_prefix="transformer.",
    harmless=r"(transformer\.)?h\.\d+\.attn\.(bias|masked_bias)",  # the causal mask
    transposed=r".*\.(c_attn|c_proj|c_fc)\.weight",
    weights={
        "embeddings.words": "transformer.wte",
        "embeddings.positions": "transformer.wpe",
        "lm_head": "lm_head",
        "decoder.final_norm": "transformer.ln_f",
        "decoder.layers.{i}.self_attention.query": f"{_LAYER}.attn.c_attn",
        "decoder.layers.{i}.self_attention.key": f"{_LAYER}.attn.c_attn",
        "decoder.layers.{i}.self_attention.value": f"{_LAYER}.attn.c_attn",
        "decoder.layers.{i}.self_attention.output": f"{_LAYER}.attn.c_proj",
        "decoder.layers.{i}.self_norm": f"{_LAYER}.ln_1",
        "decoder.layers.{i}.mlp.up": f"{_LAYER}.mlp.c_fc",
        "decoder.layers.{i}.mlp.down": f"{_LAYER}.mlp.c_proj",
        "decoder.layers.{i}.mlp_norm": f"{_LAYER}.ln_2",
    },
)
