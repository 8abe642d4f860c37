"""T5 (Raffel et al. 2020, arXiv:1910.10683) and its v1.1: a pre-norm encoder-decoder with relative bias.

Published as T5 are also Flan-T5, ByT5, UL2, CodeT5 and MADLAD-400.
"""

from collections.abc import Mapping
from typing import Any

from model.config import Head, TransformerConfig
from model.families.family import Family, architecture, keep, one_or_list, pad_token, read_head, token_ids

HEADS: Mapping[str, Head] = {
    "T5ForConditionalGeneration": "lm",
    "T5WithLMHeadModel": "lm",  # what the largest of the first T5s still call it
}


def read(raw: Mapping[str, Any], heads: Mapping[str, Head] = HEADS) -> TransformerConfig:
    """Published to ours."""
    gated, _, activation = raw.get("feed_forward_proj", "relu").rpartition("-")
    if gated not in ("", "gated"):
        raise ValueError(f"feed_forward_proj {raw['feed_forward_proj']!r} is not served")
    if gated and activation == "gelu":
        activation = "gelu_new"  # T5 v1.1 calls the tanh approximation "gated-gelu"
    num_layers, size = raw["num_layers"], raw["d_model"]
    tied = raw.get("tie_word_embeddings", True)
    return TransformerConfig(
        family="t5",
        kind="encoder-decoder",
        head=read_head(raw, heads),
        vocab_size=raw["vocab_size"],
        hidden_size=size,
        intermediate_size=raw["d_ff"],
        num_encoder_layers=num_layers,
        num_decoder_layers=raw.get("num_decoder_layers") or num_layers,
        num_heads=raw["num_heads"],
        num_kv_heads=raw["num_heads"],
        head_dim=raw["d_kv"],
        max_positions=raw.get("n_positions") or 512,
        position="relative",
        relative_buckets=raw.get("relative_attention_num_buckets", 32),
        relative_max_distance=raw.get("relative_attention_max_distance", 128),
        norm="rmsnorm",
        norm_eps=raw.get("layer_norm_epsilon", 1e-6),
        pre_norm=True,
        activation=activation,
        gated_mlp=bool(gated),
        attention_bias=False,
        output_bias=False,
        mlp_bias=False,
        attention_scale=1.0,
        tie_embeddings=tied,
        logit_scale=size**-0.5 if raw.get("scale_decoder_outputs", tied) else 1.0,
        dropout=raw.get("dropout_rate", 0.1),
        pad_token_id=pad_token(raw),
        eos_token_ids=token_ids(raw.get("eos_token_id", 1)),
        decoder_start_token_id=raw.get("decoder_start_token_id", pad_token(raw)),
        extra=keep(raw),
    )


def write(config: TransformerConfig) -> dict[str, Any]:
    """Ours to published."""
    activation = config.activation.removesuffix("_new")
    return {
        "architectures": [architecture(config, HEADS)],
        "model_type": "t5",
        "is_encoder_decoder": True,
        "vocab_size": config.vocab_size,
        "d_model": config.hidden_size,
        "d_ff": config.intermediate_size,
        "d_kv": config.head_dim,
        "num_layers": config.num_encoder_layers,
        "num_decoder_layers": config.num_decoder_layers,
        "num_heads": config.num_heads,
        "n_positions": config.max_positions,
        "relative_attention_num_buckets": config.relative_buckets,
        "relative_attention_max_distance": config.relative_max_distance,
        "layer_norm_epsilon": config.norm_eps,
        "feed_forward_proj": f"gated-{activation}" if config.gated_mlp else config.activation,
        "tie_word_embeddings": config.tie_embeddings,
        "scale_decoder_outputs": config.logit_scale != 1.0,
        "dropout_rate": config.dropout,
        "pad_token_id": config.pad_token_id,
        "eos_token_id": one_or_list(config.eos_token_ids),
        "decoder_start_token_id": config.decoder_start_token_id,
    }


def _stack(side: str, feed_forward: int) -> dict[str, str]:
    ours, theirs = f"{side}.layers.{{i}}", f"{side}.block.{{i}}.layer"
    names = {
        f"{side}.relative.table": f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias",
        f"{side}.final_norm": f"{side}.final_layer_norm",
        f"{ours}.self_norm": f"{theirs}.0.layer_norm",
        f"{ours}.mlp_norm": f"{theirs}.{feed_forward}.layer_norm",
        f"{ours}.mlp.gate": f"{theirs}.{feed_forward}.DenseReluDense.wi_0",
        f"{ours}.mlp.down": f"{theirs}.{feed_forward}.DenseReluDense.wo",
    }
    for ours_part, theirs_part in zip(("query", "key", "value", "output"), "qkvo", strict=True):
        names[f"{ours}.self_attention.{ours_part}"] = f"{theirs}.0.SelfAttention.{theirs_part}"
        names[f"{ours}.cross_attention.{ours_part}"] = f"{theirs}.1.EncDecAttention.{theirs_part}"
    names[f"{ours}.cross_norm"] = f"{theirs}.1.layer_norm"
    # The widening projection is `wi` in the plain network and `wi_1` in the gated one.
    names[f"{ours}.mlp.up"] = f"{theirs}.{feed_forward}.DenseReluDense.wi"
    names[f"{ours}.mlp.up|gated"] = f"{theirs}.{feed_forward}.DenseReluDense.wi_1"
    return names


T5 = Family(
    model_type="t5",
    heads=HEADS,
    read=read,
    write=write,
    harmless=r"decoder\.block\.0\.layer\.1\.EncDecAttention\.relative_attention_bias\.weight",
    copies=r"(en|de)coder\.embed_tokens\.weight|lm_head\.weight",
    weights={
        "embeddings.words": "shared",
        "lm_head": "lm_head",
        **_stack("encoder", 1),
        **_stack("decoder", 2),
    },
)
