"""DistilBERT (Sanh et al. 2019, arXiv:1910.01108): a shorter BERT without segments, under other names."""

from collections.abc import Mapping
from typing import Any

from model.config import Head, TransformerConfig
from model.families.family import Family, architecture, keep, pad_token, read_head, read_labels, write_labels

HEADS: Mapping[str, Head] = {
    "DistilBertModel": "none",
    "DistilBertForMaskedLM": "masked-lm",
    "DistilBertForSequenceClassification": "sequence-class",
    "DistilBertForTokenClassification": "token-class",
    "DistilBertForQuestionAnswering": "span",
}


def read(raw: Mapping[str, Any]) -> TransformerConfig:
    """Published to ours. Positions are learned or sinusoids, but stored either way."""
    head = read_head(raw, HEADS)
    size, num_heads = raw["dim"], raw["n_heads"]
    return TransformerConfig(
        family="distilbert",
        kind="encoder",
        head=head,
        labels=read_labels(raw, head),
        multi_label=raw.get("problem_type") == "multi_label_classification",
        vocab_size=raw["vocab_size"],
        hidden_size=size,
        intermediate_size=raw["hidden_dim"],
        num_encoder_layers=raw["n_layers"],
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=size // num_heads,
        max_positions=raw["max_position_embeddings"],
        position="learned",
        norm="layernorm",
        norm_eps=1e-12,
        pre_norm=False,
        activation=raw.get("activation", "gelu"),
        attention_bias=True,
        output_bias=True,
        mlp_bias=True,
        attention_scale=(size // num_heads) ** -0.5,
        embedding_norm=True,
        tie_embeddings=raw.get("tie_word_embeddings", True),
        pooler_activation="relu",
        dropout=raw.get("dropout", 0.1),
        initializer_range=raw.get("initializer_range", 0.02),
        pad_token_id=pad_token(raw),
        extra=keep(raw),
    )


def write(config: TransformerConfig) -> dict[str, Any]:
    """Ours to published."""
    return write_labels(config) | {
        "architectures": [architecture(config, HEADS)],
        "model_type": "distilbert",
        "vocab_size": config.vocab_size,
        "dim": config.hidden_size,
        "hidden_dim": config.intermediate_size,
        "n_layers": config.num_encoder_layers,
        "n_heads": config.num_heads,
        "max_position_embeddings": config.max_positions,
        "activation": config.activation,
        "tie_word_embeddings": config.tie_embeddings,
        "dropout": config.dropout,
        "attention_dropout": config.dropout,
        "initializer_range": config.initializer_range,
        "pad_token_id": config.pad_token_id,
    }


_LAYER = "distilbert.transformer.layer.{i}"

DISTILBERT = Family(
    model_type="distilbert",
    heads=HEADS,
    read=read,
    write=write,
    base_prefix="distilbert.",
    harmless=r"(.*\.)?embeddings\.position_ids|vocab_projector\.weight",
    weights={
        "embeddings.words": "distilbert.embeddings.word_embeddings",
        "embeddings.positions": "distilbert.embeddings.position_embeddings",
        "embeddings.norm": "distilbert.embeddings.LayerNorm",
        "encoder.layers.{i}.self_attention.query": f"{_LAYER}.attention.q_lin",
        "encoder.layers.{i}.self_attention.key": f"{_LAYER}.attention.k_lin",
        "encoder.layers.{i}.self_attention.value": f"{_LAYER}.attention.v_lin",
        "encoder.layers.{i}.self_attention.output": f"{_LAYER}.attention.out_lin",
        "encoder.layers.{i}.self_norm": f"{_LAYER}.sa_layer_norm",
        "encoder.layers.{i}.mlp.up": f"{_LAYER}.ffn.lin1",
        "encoder.layers.{i}.mlp.down": f"{_LAYER}.ffn.lin2",
        "encoder.layers.{i}.mlp_norm": f"{_LAYER}.output_layer_norm",
        "head.masked_lm.dense": "vocab_transform",
        "head.masked_lm.norm": "vocab_layer_norm",
        "head.masked_lm.bias": "vocab_projector.bias",
        "head.masked_lm.projection": "vocab_projector.weight",
        "head.pooler.dense": "pre_classifier",
        "head.sequence-class.classifier": "classifier",
        "head.token-class.classifier": "classifier",
        "head.span.classifier": "qa_outputs",
    },
)
