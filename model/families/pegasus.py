"""Pegasus (Zhang et al. 2019, arXiv:1912.08777): pre-norm, sinusoids, made for summaries."""

from collections.abc import Mapping
from typing import Any

from model.config import Head, TransformerConfig
from model.families.bart import NAMING, WEIGHTS, read_shape, write_shape
from model.families.family import Family, pad_token

HEADS: Mapping[str, Head] = {"PegasusForConditionalGeneration": "lm"}


def read(raw: Mapping[str, Any]) -> TransformerConfig:
    """Published to ours."""
    return read_shape(
        raw,
        HEADS,
        start=0,
        family="pegasus",
        position="sinusoidal",
        pre_norm=True,
        logit_bias=True,
        pad_token_id=pad_token(raw),
    )


def write(config: TransformerConfig) -> dict[str, Any]:
    """Ours to published."""
    return write_shape(config, HEADS)


PEGASUS = Family(model_type="pegasus", heads=HEADS, read=read, write=write, weights=WEIGHTS, **NAMING)
