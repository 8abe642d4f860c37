"""ModernBERT (Warner et al. 2024, arXiv:2412.13663): a pre-norm encoder of windowed and full layers.

The embeddings are normed, so the first layer's attention is not. Queries, keys and values are
published as one tensor, the gate and the widening projection as another.
"""

from collections.abc import Mapping
from typing import Any

from model.config import Head, TransformerConfig
from model.families.family import Family, architecture, keep, pad_token, read_head, read_labels, write_labels
from model.families.layer_types import FULL, SLIDING, read_layer_rope, read_layer_types, write_layer_types

HEADS: Mapping[str, Head] = {
    "ModernBertModel": "none",
    "ModernBertForMaskedLM": "masked-lm",
    "ModernBertForSequenceClassification": "sequence-class",
    "ModernBertForTokenClassification": "token-class",
    "ModernBertForQuestionAnswering": "span",
}


def read(raw: Mapping[str, Any]) -> TransformerConfig:
    """Published to ours."""
    head = read_head(raw, HEADS)
    activation = raw.get("hidden_activation", "gelu")
    if raw.get("classifier_activation", "gelu") != activation and head != "none":
        raise ValueError("a classifier_activation unlike hidden_activation is not served")
    if not raw.get("decoder_bias", True):
        raise ValueError("decoder_bias false is not served")
    pooling = raw.get("classifier_pooling", "cls")
    if pooling not in ("cls", "mean"):
        raise ValueError(f"classifier_pooling {pooling!r} is not served")
    every = raw.get("global_attn_every_n_layers", 3)
    kinds = read_layer_types(raw, [FULL] + [SLIDING] * (every - 1))
    full = read_layer_rope(raw, FULL, "global_rope_theta", 160_000.0)
    local = read_layer_rope(raw, SLIDING, "local_rope_theta", 10_000.0)
    if raw.get("rope_scaling") or {full["rope_type"], local["rope_type"]} != {"default"}:
        raise ValueError("rope scaling is not served for ModernBERT")
    # The published number counts both sides: half of it on either, and the token itself.
    window = raw.get("local_attention", 128) // 2 + 1
    size, num_heads = raw["hidden_size"], raw["num_attention_heads"]
    has_bias = raw.get("attention_bias", False)
    return TransformerConfig(
        family="modernbert",
        kind="encoder",
        head=head,
        labels=read_labels(raw, head),
        multi_label=raw.get("problem_type") == "multi_label_classification",
        vocab_size=raw["vocab_size"],
        hidden_size=size,
        intermediate_size=raw["intermediate_size"],
        num_encoder_layers=raw["num_hidden_layers"],
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=size // num_heads,
        max_positions=raw.get("max_position_embeddings", 8192),
        position="rotary",
        rope_theta=full["rope_theta"],
        layer_windows=tuple(window if kind == SLIDING else 0 for kind in kinds),
        layer_rope_thetas=tuple((local if kind == SLIDING else full)["rope_theta"] for kind in kinds),
        norm="layernorm",
        norm_eps=raw.get("norm_eps", 1e-5),
        norm_bias=raw.get("norm_bias", False),
        pre_norm=True,
        skip_first_norm=True,
        activation=activation,
        gated_mlp=True,
        attention_bias=has_bias,
        output_bias=has_bias,
        mlp_bias=raw.get("mlp_bias", False),
        attention_scale=(size // num_heads) ** -0.5,
        embedding_norm=True,
        tie_embeddings=raw.get("tie_word_embeddings", True),
        head_transform=True,
        head_bias=raw.get("classifier_bias", False),
        classifier_pooling=pooling,
        dropout=raw.get("mlp_dropout", 0.0),
        initializer_range=raw.get("initializer_range", 0.02),
        pad_token_id=pad_token(raw),
        extra=keep(raw),
    )


def write(config: TransformerConfig) -> dict[str, Any]:
    """Ours to published."""
    window = max(config.layer_windows, default=0)
    return (
        write_labels(config)
        | write_layer_types(config)
        | {
            "architectures": [architecture(config, HEADS)],
            "model_type": "modernbert",
            "vocab_size": config.vocab_size,
            "hidden_size": config.hidden_size,
            "intermediate_size": config.intermediate_size,
            "num_hidden_layers": config.num_encoder_layers,
            "num_attention_heads": config.num_heads,
            "max_position_embeddings": config.max_positions,
            "local_attention": 2 * (window - 1) if window else 128,
            "norm_eps": config.norm_eps,
            "norm_bias": config.norm_bias,
            "hidden_activation": config.activation,
            "classifier_activation": config.activation,
            "classifier_bias": config.head_bias,
            "classifier_pooling": config.classifier_pooling,
            "attention_bias": config.attention_bias,
            "mlp_bias": config.mlp_bias,
            "tie_word_embeddings": config.tie_embeddings,
            "embedding_dropout": config.dropout,
            "mlp_dropout": config.dropout,
            "classifier_dropout": config.dropout,
            "initializer_range": config.initializer_range,
            "pad_token_id": config.pad_token_id,
        }
    )


_OURS, _LAYER = "encoder.layers.{i}", "model.layers.{i}"

MODERNBERT = Family(
    model_type="modernbert",
    heads=HEADS,
    read=read,
    write=write,
    base_prefix="model.",
    harmless=r"decoder\.weight",
    weights={
        "embeddings.words": "model.embeddings.tok_embeddings",
        "embeddings.norm": "model.embeddings.norm",
        "encoder.final_norm": "model.final_norm",
        f"{_OURS}.self_attention.query": f"{_LAYER}.attn.Wqkv",
        f"{_OURS}.self_attention.key": f"{_LAYER}.attn.Wqkv",
        f"{_OURS}.self_attention.value": f"{_LAYER}.attn.Wqkv",
        f"{_OURS}.self_attention.output": f"{_LAYER}.attn.Wo",
        f"{_OURS}.self_norm": f"{_LAYER}.attn_norm",
        f"{_OURS}.mlp.gate": f"{_LAYER}.mlp.Wi",
        f"{_OURS}.mlp.up": f"{_LAYER}.mlp.Wi",
        f"{_OURS}.mlp.down": f"{_LAYER}.mlp.Wo",
        f"{_OURS}.mlp_norm": f"{_LAYER}.mlp_norm",
        "head.masked_lm.dense": "head.dense",
        "head.masked_lm.norm": "head.norm",
        "head.masked_lm.bias": "decoder.bias",
        "head.masked_lm.projection": "decoder.weight",
        "head.pooler.dense": "head.dense",
        "head.pooler.norm": "head.norm",
        "head.sequence-class.classifier": "classifier",
        "head.token-class.transform.dense": "head.dense",
        "head.token-class.transform.norm": "head.norm",
        "head.token-class.classifier": "classifier",
        "head.span.transform.dense": "head.dense",
        "head.span.transform.norm": "head.norm",
        "head.span.classifier": "classifier",
    },
)
