"""mT5 (Xue et al. 2020, arXiv:2010.11934): T5 v1.1 over a hundred languages."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from model.config import Head, TransformerConfig
from model.families import t5
from model.families.family import architecture

HEADS: Mapping[str, Head] = {"MT5ForConditionalGeneration": "lm"}


def read(raw: Mapping[str, Any]) -> TransformerConfig:
    """Published to ours. Unlike T5's, its output is scaled in no case, tied or not."""
    as_t5 = {"feed_forward_proj": "gated-gelu"} | dict(raw) | {"scale_decoder_outputs": False}
    return replace(t5.read(as_t5, HEADS), family="mt5")


def write(config: TransformerConfig) -> dict[str, Any]:
    """Ours to published."""
    return t5.write(config) | {"architectures": [architecture(config, HEADS)], "model_type": "mt5"}


MT5 = replace(t5.T5, model_type="mt5", heads=HEADS, read=read, write=write)
