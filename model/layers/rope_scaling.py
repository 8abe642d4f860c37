"""Rotary frequencies: plain, or stretched so that a model reads further than it was trained to."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Scaling = Mapping[str, Any]


def rotary_frequencies(head_dim: int, theta: float, scaling: Scaling) -> tuple[Tensor, float]:
    """[head_dim / 2] float32 radians a position, and what cosines and sines are multiplied by.

    `scaling` is as `model.families.rope` reads it, which also checks it. Every operation is done in
    the order and precision of `transformers`, so that angles at far positions are the same numbers.
    """
    # On the CPU even where the model around it is being built on the meta device.
    steps = torch.arange(0, head_dim, 2, device="cpu", dtype=torch.float32)
    periods: Tensor = theta ** (steps / head_dim)
    return _KINDS[scaling.get("rope_type", "default")](periods, theta, scaling)


def _default(periods: Tensor, theta: float, scaling: Scaling) -> tuple[Tensor, float]:
    return 1.0 / periods, 1.0


def _linear(periods: Tensor, theta: float, scaling: Scaling) -> tuple[Tensor, float]:
    """Positions are squeezed into the trained range (Chen et al. 2023, arXiv:2306.15595)."""
    return (1.0 / periods) / scaling["factor"], 1.0


def _llama3(periods: Tensor, theta: float, scaling: Scaling) -> tuple[Tensor, float]:
    """Long waves are stretched, short ones kept, those between blended (Llama 3.1, arXiv:2407.21783)."""
    plain = 1.0 / periods
    factor, trained = scaling["factor"], scaling["original_max_position_embeddings"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    waves = 2 * math.pi / plain
    kept = (trained / waves - low) / (high - low)  # from 0 for a wave to be stretched to 1
    blend = (1 - kept) * plain / factor + kept * plain
    is_long, is_short = waves > trained / low, waves < trained / high
    return torch.where(is_long, plain / factor, torch.where(is_short, plain, blend)), 1.0


def _yarn(periods: Tensor, theta: float, scaling: Scaling) -> tuple[Tensor, float]:
    """YaRN (Peng et al. 2023, arXiv:2309.00071): a ramp over dimensions, and sharper attention."""
    factor, trained = scaling["factor"], scaling["original_max_position_embeddings"]
    head_dim = 2 * len(periods)

    def dimension(rotations: float) -> float:
        """The dimension whose wave turns so many times within the trained length."""
        return head_dim * math.log(trained / (rotations * 2 * math.pi)) / (2 * math.log(theta))

    low, high = dimension(scaling.get("beta_fast") or 32), dimension(scaling.get("beta_slow") or 1)
    if scaling.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    if low == high:
        high += 0.001
    steps = torch.arange(len(periods), device="cpu", dtype=torch.float32)
    kept = 1 - ((steps - low) / (high - low)).clamp(0, 1)
    frequencies = 1.0 / (factor * periods) * (1 - kept) + 1.0 / periods * kept
    return frequencies, _yarn_magnitude(scaling)


def _yarn_magnitude(scaling: Scaling) -> float:
    """The paper's 0.1 ln(s) + 1, unless the checkpoint gives it or the two weights of its logarithm."""
    given, one, all_ = (scaling.get(key) for key in ("attention_factor", "mscale", "mscale_all_dim"))
    if given is not None:
        return float(given)

    def magnitude(weight: float) -> float:
        factor = scaling["factor"]
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    return magnitude(one) / magnitude(all_) if one and all_ else magnitude(1.0)


_KINDS: Mapping[str, Callable[[Tensor, float, Scaling], tuple[Tensor, float]]] = {
    "default": _default,
    "dynamic": _default,  # up to the trained length, where a model with it ends here
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}
