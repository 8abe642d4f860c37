"""BART (Lewis et al. 2019, arXiv:1910.13461): a post-norm encoder-decoder with learned positions.

Its relatives mBART, Marian, M2M100 and Pegasus publish the same keys and names, and are read with this table.
"""

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
    read_labels,
    token_ids,
    write_labels,
)

HEADS: Mapping[str, Head] = {
    "BartForConditionalGeneration": "lm",
    "BartModel": "lm",  # bart-base and bart-large; with its tied table it is a language model already
    "BartForSequenceClassification": "sequence-class",
}


def read_shape(
    raw: Mapping[str, Any], heads: Mapping[str, Head], start: int | None, **axes: Any
) -> TransformerConfig:
    """What the relatives have in common; `start` is the decoder's first token where none is published,
    `axes` are what sets one of them apart."""
    for what in ("attention_heads", "ffn_dim"):
        if raw[f"encoder_{what}"] != raw[f"decoder_{what}"]:
            raise ValueError(f"an encoder_{what} other than decoder_{what} is not served")
    if not raw.get("tie_word_embeddings", True):
        raise ValueError("tie_word_embeddings false is not served")
    size, num_heads = raw["d_model"], raw["encoder_attention_heads"]
    if size % num_heads:
        raise ValueError(f"d_model {size} cannot be cut into {num_heads} attention heads")
    published_start = raw.get("decoder_start_token_id")
    head = read_head(raw, heads)
    activation = raw["activation_function"]
    return TransformerConfig(
        kind="encoder-decoder",
        head=head,
        labels=read_labels(raw, head),
        multi_label=raw.get("problem_type") == "multi_label_classification",
        vocab_size=raw["vocab_size"],
        hidden_size=size,
        intermediate_size=raw["encoder_ffn_dim"],
        num_encoder_layers=raw["encoder_layers"],
        num_decoder_layers=raw["decoder_layers"],
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=size // num_heads,
        max_positions=raw["max_position_embeddings"],
        norm="layernorm",
        norm_eps=1e-5,
        activation="silu" if activation == "swish" else activation,
        attention_bias=True,
        output_bias=True,
        mlp_bias=True,
        attention_scale=(size // num_heads) ** -0.5,
        embedding_scale=size**0.5 if raw.get("scale_embedding", False) else 1.0,
        dropout=raw.get("dropout", 0.1),
        initializer_range=raw.get("init_std", 0.02),
        bos_token_id=raw.get("bos_token_id"),
        eos_token_ids=token_ids(raw.get("eos_token_id")),
        decoder_start_token_id=start if published_start is None else published_start,
        extra=keep(raw),
        **axes,
    )


def write_shape(config: TransformerConfig, heads: Mapping[str, Head]) -> dict[str, Any]:
    """Ours to published, for all relatives."""
    return write_labels(config) | {
        "architectures": [architecture(config, heads)],
        "model_type": config.family,
        "is_encoder_decoder": True,
        "vocab_size": config.vocab_size,
        "d_model": config.hidden_size,
        "encoder_layers": config.num_encoder_layers,
        "decoder_layers": config.num_decoder_layers,
        "encoder_attention_heads": config.num_heads,
        "decoder_attention_heads": config.num_heads,
        "encoder_ffn_dim": config.intermediate_size,
        "decoder_ffn_dim": config.intermediate_size,
        "max_position_embeddings": config.max_positions,
        "activation_function": config.activation,
        "scale_embedding": config.embedding_scale != 1.0,
        "tie_word_embeddings": True,
        "dropout": config.dropout,
        "init_std": config.initializer_range,
        "pad_token_id": config.pad_token_id,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": one_or_list(config.eos_token_ids),
        "decoder_start_token_id": config.decoder_start_token_id,
    }


def _stack(side: str) -> dict[str, str]:
    ours, theirs = f"{side}.layers.{{i}}", f"model.{side}.layers.{{i}}"
    names = {
        f"{side}.final_norm": f"model.{side}.layer_norm",
        f"{ours}.mlp.up": f"{theirs}.fc1",
        f"{ours}.mlp.down": f"{theirs}.fc2",
        f"{ours}.mlp_norm": f"{theirs}.final_layer_norm",
    }
    for attention, published in (("self", "self_attn"), ("cross", "encoder_attn")):
        names[f"{ours}.{attention}_norm"] = f"{theirs}.{published}_layer_norm"
        for part, letter in (("query", "q"), ("key", "k"), ("value", "v"), ("output", "out")):
            names[f"{ours}.{attention}_attention.{part}"] = f"{theirs}.{published}.{letter}_proj"
    return names


WEIGHTS: Mapping[str, str] = {
    "embeddings.words": "model.shared",
    "embeddings.positions": "model.encoder.embed_positions",
    "embeddings.norm": "model.encoder.layernorm_embedding",
    "decoder_embeddings.positions": "model.decoder.embed_positions",
    "decoder_embeddings.norm": "model.decoder.layernorm_embedding",
    "lm_head": "lm_head",
    "logit_bias": "final_logits_bias",
    "head.pooler.dense": "classification_head.dense",
    "head.sequence-class.classifier": "classification_head.out_proj",
    **_stack("encoder"),
    **_stack("decoder"),
}
NAMING: Mapping[str, str] = {
    "base_prefix": "model.",
    # Sinusoids are computed; early checkpoints store them all the same.
    "harmless": r"(model\.)?(en|de)coder\.(version|embed_positions\.weights?)",
    "copies": r"(model\.)?(en|de)coder\.embed_tokens\.weight|lm_head\.weight",
    "zero_if_missing": r"final_logits_bias",
}


def read(raw: Mapping[str, Any]) -> TransformerConfig:
    """Published to ours."""
    return read_shape(
        raw,
        HEADS,
        start=2,
        family="bart",
        position="learned",
        position_offset=2,
        pre_norm=False,
        embedding_norm=True,
        logit_bias=read_head(raw, HEADS) == "lm",
        pad_token_id=pad_token(raw, 1),
    )


def write(config: TransformerConfig) -> dict[str, Any]:
    """Ours to published."""
    return write_shape(config, HEADS)


BART = Family(model_type="bart", heads=HEADS, read=read, write=write, weights=WEIGHTS, **NAMING)
