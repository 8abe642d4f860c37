"""DeBERTa v2 and v3 (He et al. 2021, arXiv:2006.03654, arXiv:2111.09543): disentangled attention.

Both are published as `deberta-v2`. Its masked-LM head is BERT's, or one that stands beside it under
`lm_predictions` where the config says that it is not `legacy`.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

from model.config import Head, TransformerConfig
from model.families.bert import PREDICTIONS, encoder_weights, read_encoder, write_encoder
from model.families.family import Family

HEADS: Mapping[str, Head] = {
    "DebertaV2Model": "none",
    "DebertaV2ForMaskedLM": "masked-lm",
    "DebertaV2ForSequenceClassification": "sequence-class",
    "DebertaV2ForTokenClassification": "token-class",
    "DebertaV2ForQuestionAnswering": "span",
}


def read(raw: Mapping[str, Any]) -> TransformerConfig:
    """Published to ours."""
    size = raw["hidden_size"]
    if raw.get("conv_kernel_size", 0) > 0:
        raise ValueError("a convolution behind the first layer (conv_kernel_size) is not served")
    for key in ("embedding_size", "pooler_hidden_size"):
        if raw.get(key, size) != size:
            raise ValueError(f"a {key} other than hidden_size is not served")
    config = read_encoder({"type_vocab_size": 0, "layer_norm_eps": 1e-7, **raw}, "deberta-v2", HEADS)
    if raw.get("attention_head_size", config.head_dim) != config.head_dim:
        raise ValueError("an attention_head_size other than hidden_size / num_attention_heads is not served")
    is_legacy = raw.get("legacy", True)
    kinds = _kinds(raw.get("pos_att_type"))
    if bool(kinds) != raw.get("relative_attention", False):
        raise ValueError("relative_attention without a pos_att_type, or the other way round, is not served")
    maximum = raw.get("max_relative_positions", -1)
    return replace(
        config,
        position="learned" if raw.get("position_biased_input", True) else "none",
        disentangled=kinds,
        relative_buckets=max(0, raw.get("position_buckets", -1)),
        relative_max_distance=maximum if maximum > 0 else config.max_positions,
        shared_position_projections=raw.get("share_att_key", False),
        relative_norm="layer_norm" in raw.get("norm_rel_ebd", "none").lower(),
        # Content, content to position and position to content: a score of each is as large as one alone.
        attention_scale=(config.head_dim * (1 + len(kinds))) ** -0.5,
        pooler_activation=raw.get("pooler_hidden_act", "gelu"),
        tie_embeddings=config.tie_embeddings or not is_legacy,
        extra=dict(config.extra) | ({} if is_legacy else {"legacy": False}),
    )


_KINDS: tuple[Literal["c2p", "p2c"], ...] = ("c2p", "p2c")


def _kinds(value: str | list[str] | None) -> tuple[Literal["c2p", "p2c"], ...]:
    parts = value.lower().split("|") if isinstance(value, str) else value or ()
    names = {part.strip() for part in parts}
    if names - set(_KINDS):
        raise ValueError(f"pos_att_type {value!r} is not served")
    return tuple(kind for kind in _KINDS if kind in names)


def write(config: TransformerConfig) -> dict[str, Any]:
    """Ours to published."""
    return write_encoder(config, HEADS) | {
        "position_biased_input": config.position == "learned",
        "relative_attention": bool(config.disentangled),
        "pos_att_type": list(config.disentangled),
        "position_buckets": config.relative_buckets or -1,
        "max_relative_positions": config.relative_max_distance,
        "share_att_key": config.shared_position_projections,
        "norm_rel_ebd": "layer_norm" if config.relative_norm else "none",
        "pooler_hidden_act": config.pooler_activation,
        "pooler_hidden_size": config.hidden_size,
    }


_ATTENTION = "deberta.encoder.layer.{i}.attention.self"

DEBERTA = Family(
    model_type="deberta-v2",
    heads=HEADS,
    read=read,
    write=write,
    base_prefix="deberta.",
    harmless=r"(.*\.)?embeddings\.(position_ids|position_embeddings\.weight)"
    r"|cls\.predictions\.(bias|decoder\.(weight|bias))|(lm|mask)_predictions\..*",
    weights={
        **encoder_weights("deberta", projection="_proj"),
        "encoder.positions.table": "deberta.encoder.rel_embeddings",
        "encoder.positions.norm": "deberta.encoder.LayerNorm",
        "encoder.layers.{i}.self_attention.positions.query": f"{_ATTENTION}.pos_query_proj",
        "encoder.layers.{i}.self_attention.positions.key": f"{_ATTENTION}.pos_key_proj",
        **PREDICTIONS,
        "head.masked_lm.dense|modern": "lm_predictions.lm_head.dense",
        "head.masked_lm.norm|modern": "lm_predictions.lm_head.LayerNorm",
        "head.masked_lm.bias|modern": "lm_predictions.lm_head.bias",
        "head.pooler.dense": "pooler.dense",
        "head.sequence-class.classifier": "classifier",
        "head.token-class.classifier": "classifier",
        "head.span.classifier": "qa_outputs",
    },
)
