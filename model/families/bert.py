"""BERT (Devlin et al. 2019, arXiv:1810.04805): a post-norm encoder with learned positions."""

from collections.abc import Mapping
from typing import Any

from model.config import Head, TransformerConfig
from model.families.family import Family, architecture, keep, read_head, read_labels, write_labels

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
    if raw.get("is_decoder") or raw.get("add_cross_attention"):
        raise ValueError("BERT as a decoder is not served")
    if raw.get("position_embedding_type", "absolute") != "absolute":
        raise ValueError(f"position_embedding_type {raw['position_embedding_type']!r} is not served")
    head = read_head(raw, HEADS)
    size, num_heads = raw["hidden_size"], raw["num_attention_heads"]
    return TransformerConfig(
        family="bert",
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
        pad_token_id=raw.get("pad_token_id", 0),
        extra=keep(raw),
    )


def write(config: TransformerConfig) -> dict[str, Any]:
    """Ours to published."""
    return write_labels(config) | {
        "architectures": [architecture(config, HEADS)],
        "model_type": "bert",
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


_LAYER = "bert.encoder.layer.{i}"
_PREDICTIONS = "cls.predictions"

BERT = Family(
    model_type="bert",
    heads=HEADS,
    read=read,
    write=write,
    base_prefix="bert.",
    harmless=r"(.*\.)?embeddings\.position_ids|(bert\.)?pooler\..*"
    r"|cls\.predictions\.decoder\.(weight|bias)|cls\.seq_relationship\..*",
    weights={
        "embeddings.words": "bert.embeddings.word_embeddings",
        "embeddings.positions": "bert.embeddings.position_embeddings",
        "embeddings.types": "bert.embeddings.token_type_embeddings",
        "embeddings.norm": "bert.embeddings.LayerNorm",
        "encoder.layers.{i}.self_attention.query": f"{_LAYER}.attention.self.query",
        "encoder.layers.{i}.self_attention.key": f"{_LAYER}.attention.self.key",
        "encoder.layers.{i}.self_attention.value": f"{_LAYER}.attention.self.value",
        "encoder.layers.{i}.self_attention.output": f"{_LAYER}.attention.output.dense",
        "encoder.layers.{i}.self_norm": f"{_LAYER}.attention.output.LayerNorm",
        "encoder.layers.{i}.mlp.up": f"{_LAYER}.intermediate.dense",
        "encoder.layers.{i}.mlp.down": f"{_LAYER}.output.dense",
        "encoder.layers.{i}.mlp_norm": f"{_LAYER}.output.LayerNorm",
        "head.pooler.dense": "bert.pooler.dense",
        "head.next_sentence.pooler.dense": "bert.pooler.dense",
        "head.next_sentence.classifier": "cls.seq_relationship",
        "head.masked_lm.dense": f"{_PREDICTIONS}.transform.dense",
        "head.masked_lm.norm": f"{_PREDICTIONS}.transform.LayerNorm",
        "head.masked_lm.bias": f"{_PREDICTIONS}.bias",
        "head.masked_lm.projection": f"{_PREDICTIONS}.decoder.weight",
        "head.sequence-class.classifier": "classifier",
        "head.token-class.classifier": "classifier",
        "head.span.classifier": "qa_outputs",
    },
)
