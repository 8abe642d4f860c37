"""M2M100 (Fan et al. 2020, arXiv:2010.11125) and NLLB-200 (2022, arXiv:2207.04672): pre-norm, sinusoids."""

from collections.abc import Mapping
from typing import Any

from model.config import Head, TransformerConfig
from model.families.bart import NAMING, WEIGHTS, read_shape, write_shape
from model.families.family import Family, pad_token

HEADS: Mapping[str, Head] = {"M2M100ForConditionalGeneration": "lm"}


def read(raw: Mapping[str, Any]) -> TransformerConfig:
    """Published to ours."""
    pad = pad_token(raw, 1)
    return read_shape(
        raw,
        HEADS,
        start=2,
        family="m2m_100",
        position="sinusoidal",
        position_offset=pad + 1,  # as in RoBERTa, the row of the padding token stands before the first
        frequency_shift=1,
        pre_norm=True,
        pad_token_id=pad,
    )


def write(config: TransformerConfig) -> dict[str, Any]:
    """Ours to published."""
    return write_shape(config, HEADS)


M2M100 = Family(model_type="m2m_100", heads=HEADS, read=read, write=write, weights=WEIGHTS, **NAMING)
