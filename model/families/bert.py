"""BERT (Devlin et al. 2019, arXiv:1810.04805): a post-norm encoder with learned positions.

RoBERTa and DeBERTa are published with the same keys and nearly the same names, so their tables start from this one.
"""

from collections.abc import Mapping
from typing import Any

from model.config import Head, TransformerConfig
from model.families.family import Family, architecture, keep, pad_token, read_head, read_labels, write_labels

HEADS: Mapping[str, Head] = {
    "BertModel": "none",
    "BertForPreTraining": "pretraining",
    "BertForMaskedLM": "masked-lm",
    "BertForNextSentencePrediction": "next-sentence",
    "BertForSequenceClassification": "sequence-class",
    "BertForTokenClassification": "token-class",
    "BertForQuestionAnswering": "span",
}


def read(raw: Mapping[str, Any]) -> TransformerConfig:
    """Published to ours."""
    return read_encoder(raw, "bert", HEADS)


def read_encoder(raw: Mapping[str, Any], family: str, heads: Mapping[str, Head]) -> TransformerConfig:
    """The keys that BERT's descendants kept, with BERT's defaults."""
    if raw.get("is_decoder") or raw.get("add_cross_attention"):
        raise ValueError(f"{family} as a decoder is not served")
    if raw.get("position_embedding_type", "absolute") != "absolute":
        raise ValueError(f"position_embedding_type {raw['position_embedding_type']!r} is not served")
    head = read_head(raw, heads)
    size, num_heads = raw["hidden_size"], raw["num_attention_heads"]
    return TransformerConfig(
        family=family,
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
        max_positions=raw["max_position_embeddings"],
        position="learned",
        norm="layernorm",
        norm_eps=raw.get("layer_norm_eps", 1e-12),
        pre_norm=False,
        activation=raw.get("hidden_act", "gelu"),
        attention_bias=True,
        output_bias=True,
        mlp_bias=True,
        attention_scale=(size // num_heads) ** -0.5,
        type_vocab_size=raw.get("type_vocab_size", 2),
        embedding_norm=True,
        tie_embeddings=raw.get("tie_word_embeddings", True),
        dropout=raw.get("hidden_dropout_prob", 0.1),
        initializer_range=raw.get("initializer_range", 0.02),
        pad_token_id=pad_token(raw),
        extra=keep(raw),
    )


def write(config: TransformerConfig) -> dict[str, Any]:
    """Ours to published."""
    return write_encoder(config, HEADS)


def write_encoder(config: TransformerConfig, heads: Mapping[str, Head]) -> dict[str, Any]:
    """What `read_encoder` reads."""
    return write_labels(config) | {
        "architectures": [architecture(config, heads)],
        "model_type": config.family,
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_encoder_layers,
        "num_attention_heads": config.num_heads,
        "max_position_embeddings": config.max_positions,
        "layer_norm_eps": config.norm_eps,
        "hidden_act": config.activation,
        "type_vocab_size": config.type_vocab_size,
        "tie_word_embeddings": config.tie_embeddings,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.dropout,
        "initializer_range": config.initializer_range,
        "pad_token_id": config.pad_token_id,
    }


def encoder_weights(prefix: str, projection: str = "") -> dict[str, str]:
    """Names of embeddings and layers; `projection` ends those of query, key and value."""
    layer = f"{prefix}.encoder.layer.{{i}}"
    return {
        "embeddings.words": f"{prefix}.embeddings.word_embeddings",
        "embeddings.positions": f"{prefix}.embeddings.position_embeddings",
        "embeddings.types": f"{prefix}.embeddings.token_type_embeddings",
        "embeddings.norm": f"{prefix}.embeddings.LayerNorm",
        "encoder.layers.{i}.self_attention.query": f"{layer}.attention.self.query{projection}",
        "encoder.layers.{i}.self_attention.key": f"{layer}.attention.self.key{projection}",
        "encoder.layers.{i}.self_attention.value": f"{layer}.attention.self.value{projection}",
        "encoder.layers.{i}.self_attention.output": f"{layer}.attention.output.dense",
        "encoder.layers.{i}.self_norm": f"{layer}.attention.output.LayerNorm",
        "encoder.layers.{i}.mlp.up": f"{layer}.intermediate.dense",
        "encoder.layers.{i}.mlp.down": f"{layer}.output.dense",
        "encoder.layers.{i}.mlp_norm": f"{layer}.output.LayerNorm",
    }


PREDICTIONS: Mapping[str, str] = {
    "head.masked_lm.dense": "cls.predictions.transform.dense",
    "head.masked_lm.norm": "cls.predictions.transform.LayerNorm",
    "head.masked_lm.bias": "cls.predictions.bias",
    # Untied, `transformers` adds the decoder's own bias and leaves the other one out.
    "head.masked_lm.bias|untied": "cls.predictions.decoder.bias",
    "head.masked_lm.projection": "cls.predictions.decoder.weight",
}

BERT = Family(
    model_type="bert",
    heads=HEADS,
    read=read,
    write=write,
    base_prefix="bert.",
    harmless=r"(.*\.)?embeddings\.position_ids|(bert\.)?pooler\..*"
    r"|cls\.predictions\.(bias|decoder\.(weight|bias))|cls\.seq_relationship\..*",
    weights={
        **encoder_weights("bert"),
        **PREDICTIONS,
        "head.pooler.dense": "bert.pooler.dense",
        "head.next_sentence.pooler.dense": "bert.pooler.dense",
        "head.next_sentence.classifier": "cls.seq_relationship",
        "head.sequence-class.classifier": "classifier",
        "head.token-class.classifier": "classifier",
        "head.span.classifier": "qa_outputs",
    },
)
