"""Rotary settings as published, old spelling (`rope_scaling`) and new (`rope_parameters`), to ours and back.

Kinds: linear, yarn and llama3 are a function of the position and served to their full length.
`dynamic` is not: `transformers` takes new frequencies from the length so far, at each step of a
generation and of the longest text in a batch, and keeps the keys it rotated by older ones. The same
text then gives other tokens in other company, or after a preemption. Up to the trained length it
scales nothing; so far a checkpoint with it is served, and no further.
"""

import math
from collections.abc import Mapping
from typing import Any

from model.config import TransformerConfig

_NEEDED: Mapping[str, tuple[str, ...]] = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor", "original_max_position_embeddings"),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
}
_OPTIONAL = ("attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim")


def read_rope(raw: Mapping[str, Any], default_theta: float = 10000.0) -> dict[str, Any]:
    """`rope_theta`, `rope_scaling` and `max_positions` of a config; ValueError for what is not served.

    Where a file has both spellings the old one counts, as it does for `transformers`.
    """
    published = raw.get("rope_scaling") or raw.get("rope_parameters") or {}
    if not isinstance(published, dict):
        raise ValueError(f"rope settings must be an object, not {published!r:.40}")
    theta = published.get("rope_theta", raw.get("rope_theta", default_theta))
    if not _is_positive(theta) or theta <= 1:
        raise ValueError(f"rope_theta must be a number above 1, not {theta!r:.40}")
    if published.get("partial_rotary_factor", raw.get("partial_rotary_factor") or 1.0) != 1.0:
        raise ValueError("partial_rotary_factor: heads that are rotated in part are not served")
    length = raw.get("max_position_embeddings", 2048)
    kind: Any = published.get("rope_type", published.get("type", "default"))
    if kind == "default":
        return {"rope_theta": float(theta), "max_positions": length}
    if not isinstance(kind, str) or kind not in _NEEDED:
        known = ", ".join(_NEEDED)
        raise ValueError(f"rope scaling of kind {kind!r:.40} is not served; served: {known}")
    scaling = _read_scaling(kind, published, raw, length)
    if kind == "yarn":
        # The published length may be the trained one still, with the factor left to stretch it.
        stretched = int(scaling["original_max_position_embeddings"] * scaling["factor"])
        length = max(length, stretched)
    return {"rope_theta": float(theta), "rope_scaling": scaling, "max_positions": length}


def write_rope(config: TransformerConfig) -> dict[str, Any]:
    """Both spellings: `transformers` before 5 reads the first two keys, later ones any."""
    scaling = dict(config.rope_scaling)
    written: dict[str, Any] = {"rope_theta": config.rope_theta}
    if scaling:
        written["rope_scaling"] = scaling
    return written | {
        "rope_parameters": {"rope_type": "default", **scaling, "rope_theta": config.rope_theta},
        "max_position_embeddings": config.max_positions,
    }


def _read_scaling(
    kind: str, published: Mapping[str, Any], raw: Mapping[str, Any], length: Any
) -> dict[str, Any]:
    scaling = dict(published) | {"rope_type": kind}
    trained = "original_max_position_embeddings"
    if trained in _NEEDED[kind]:
        scaling[trained] = raw.get(trained) or published.get(trained) or length
    if kind == "yarn" and scaling.get("factor") is None:
        scaling["factor"] = length / scaling[trained]
    for key in (*_NEEDED[kind], *(key for key in _OPTIONAL if scaling.get(key) is not None)):
        if not _is_positive(scaling.get(key)):
            raise ValueError(f"{kind} rope scaling needs a positive {key}, not {scaling.get(key)!r:.40}")
    if kind == "llama3" and scaling["low_freq_factor"] >= scaling["high_freq_factor"]:
        raise ValueError("llama3 rope scaling needs a low_freq_factor below its high_freq_factor")
    wanted = ("rope_type", *_NEEDED[kind], *(("truncate", *_OPTIONAL) if kind == "yarn" else ()))
    return {key: scaling[key] for key in wanted if scaling.get(key) is not None}


def _is_positive(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value) and value > 0
