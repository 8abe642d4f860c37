"""mBART (Liu et al. 2020, arXiv:2001.08210) and mBART-50: BART with norms before, and one after, its stacks."""

from collections.abc import Mapping
from typing import Any

from model.config import Head, TransformerConfig
from model.families.bart import NAMING, WEIGHTS, read_shape, write_shape
from model.families.family import Family, pad_token

HEADS: Mapping[str, Head] = {"MBartForConditionalGeneration": "lm", "MBartModel": "lm"}


def read(raw: Mapping[str, Any]) -> TransformerConfig:
    """Published to ours."""
    return read_shape(
        raw,
        HEADS,
        start=raw.get("bos_token_id"),
        family="mbart",
        position="learned",
        position_offset=2,
        pre_norm=True,
        embedding_norm=True,
        logit_bias=True,
        pad_token_id=pad_token(raw, 1),
    )


def write(config: TransformerConfig) -> dict[str, Any]:
    """Ours to published."""
    return write_shape(config, HEADS)


MBART = Family(model_type="mbart", heads=HEADS, read=read, write=write, weights=WEIGHTS, **NAMING)
