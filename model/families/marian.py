"""Marian (Junczys-Dowmunt et al. 2018, arXiv:1804.00344) as OPUS-MT publishes it: post-norm, sinusoids."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from model.config import Head, TransformerConfig
from model.families.bart import NAMING, WEIGHTS, read_shape, write_shape
from model.families.family import Family

HEADS: Mapping[str, Head] = {"MarianMTModel": "lm"}
NAME = "_name_or_path"
"""Kept for the task layer: `opus-mt-en-de` may be all that names the languages."""


def read(raw: Mapping[str, Any]) -> TransformerConfig:
    """Published to ours."""
    is_shared = raw.get("share_encoder_decoder_embeddings", True)
    if not is_shared or raw.get("decoder_vocab_size") not in (None, raw["vocab_size"]):
        raise ValueError("a vocabulary for each of the two languages is not served")
    config = read_shape(
        raw,
        HEADS,
        start=raw["pad_token_id"],
        family="marian",
        position="sinusoidal",
        pre_norm=False,
        logit_bias=True,
        pad_token_id=raw["pad_token_id"],
    )
    name = raw.get(NAME)
    return replace(config, extra={**config.extra, NAME: name}) if isinstance(name, str) else config


def write(config: TransformerConfig) -> dict[str, Any]:
    """Ours to published."""
    return write_shape(config, HEADS) | {"decoder_vocab_size": config.vocab_size}


MARIAN = Family(model_type="marian", heads=HEADS, read=read, write=write, weights=WEIGHTS, **NAMING)
