"""RoBERTa (Liu et al. 2019, arXiv:1907.11692) and XLM-RoBERTa (Conneau et al. 2020, arXiv:1911.02116).

BERT's encoder whose positions count on from the padding id, with heads of their own.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from model.config import Head, TransformerConfig
from model.families.bert import encoder_weights, read_encoder, write_encoder
from model.families.family import Family, pad_token


def _family(model_type: str, stem: str) -> Family:
    heads: Mapping[str, Head] = {
        f"{stem}Model": "none",
        f"{stem}ForMaskedLM": "masked-lm",
        f"{stem}ForSequenceClassification": "sequence-class",
        f"{stem}ForTokenClassification": "token-class",
        f"{stem}ForQuestionAnswering": "span",
    }

    def read(raw: Mapping[str, Any]) -> TransformerConfig:
        """Published to ours."""
        config = read_encoder({**raw, "pad_token_id": pad_token(raw, 1)}, model_type, heads)
        if config.head == "masked-lm" and config.activation != "gelu":
            raise ValueError(
                f"a masked-LM head with hidden_act {config.activation!r} is not served, only gelu"
            )
        offset = config.pad_token_id + 1
        return replace(config, position_offset=offset, max_positions=config.max_positions - offset)

    def write(config: TransformerConfig) -> dict[str, Any]:
        """Ours to published; their `max_position_embeddings` counts the rows that no position reads."""
        num_rows = config.max_positions + config.position_offset
        return write_encoder(config, heads) | {"max_position_embeddings": num_rows}

    return Family(
        model_type=model_type,
        heads=heads,
        read=read,
        write=write,
        base_prefix="roberta.",
        harmless=r"(.*\.)?embeddings\.(position_ids|token_type_ids)|(roberta\.)?pooler\..*"
        r"|lm_head\.(bias|decoder\.(weight|bias))",
        weights={
            **encoder_weights("roberta"),
            "head.masked_lm.dense": "lm_head.dense",
            "head.masked_lm.norm": "lm_head.layer_norm",
            "head.masked_lm.bias": "lm_head.bias",
            "head.masked_lm.bias|untied": "lm_head.decoder.bias",
            "head.masked_lm.projection": "lm_head.decoder.weight",
            "head.pooler.dense": "classifier.dense",
            "head.sequence-class.classifier": "classifier.out_proj",
            "head.token-class.classifier": "classifier",
            "head.span.classifier": "qa_outputs",
        },
    )


ROBERTA = _family("roberta", "Roberta")
XLM_ROBERTA = _family("xlm-roberta", "XLMRoberta")
