"""Where a token stands: rotary angles, T5's relative bias, sinusoids."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from model import kernels
from model.layers.rope_scaling import rotary_frequencies
from model.layers.table import Table


class Rotary(nn.Module):
    """Rotary position embedding (Su et al. 2021, arXiv:2104.09864), halves rotated against each other.

    Angles are float32 whatever the model's dtype, as where the weights were trained: a position in
    the ten thousands times a frequency rounds so far that another precision is another angle.
    """

    def __init__(
        self,
        head_dim: int,
        theta: float,
        scaling: Mapping[str, Any] | None = None,
        max_positions: int | None = None,
    ) -> None:
        """`scaling` as in `TransformerConfig.rope_scaling`; positions from `max_positions` on are refused."""
        super().__init__()
        self.max_positions = max_positions
        # Plain attributes, no buffers: neither a meta device around us nor a cast of the model may touch them.
        self._frequencies, self._magnitude = rotary_frequencies(head_dim, theta, scaling or {})

    def forward(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """[num_tokens] positions to cosines and sines, each [num_tokens, 1, head_dim], for `rotate`."""
        if self.max_positions is not None and int(positions.max()) >= self.max_positions:
            raise ValueError(f"position {int(positions.max())}, but this model ends at {self.max_positions}")
        if self._frequencies.device != positions.device:
            self._frequencies = self._frequencies.to(positions.device)
        angles = positions.float()[:, None] * self._frequencies  # [num_tokens, head_dim / 2]
        cosine, sine = angles.cos(), angles.sin()
        if self._magnitude != 1.0:
            cosine, sine = cosine * self._magnitude, sine * self._magnitude
        cosine, sine = torch.cat((cosine, cosine), dim=-1), torch.cat((-sine, sine), dim=-1)
        return cosine[:, None].to(dtype), sine[:, None].to(dtype)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turns [num_tokens, num_heads, head_dim] by the angles of `Rotary`, whose sines carry the signs.

    The caller gives `x` away: where a kernel turns it, it is turned in place.
    """
    cosine, sine = rotation
    if kernels.can_run(x, cosine):
        return kernels.rotate(x, cosine, sine)
    return x * cosine + x.roll(x.shape[-1] // 2, dims=-1) * sine


class RelativeBias(nn.Module):
    """T5's learned bias by bucketed distance (Raffel et al. 2020, arXiv:1910.10683, section 2.1)."""

    def __init__(self, num_buckets: int, max_distance: int, num_heads: int, bidirectional: bool) -> None:
        super().__init__()
        self.num_buckets, self.max_distance = num_buckets, max_distance
        self.bidirectional = bidirectional
        self.table = Table(num_buckets, num_heads)

    def forward(self, query_positions: Tensor, key_positions: Tensor) -> Tensor:
        """[b, t] query and [k] key positions to an additive bias [b, num_heads, t, k]."""
        distance = key_positions[None, None, :] - query_positions[:, :, None]
        bias: Tensor = self.table(self._bucket(distance))  # [b, t, k, num_heads]
        return bias.permute(0, 3, 1, 2)

    def by_distance(self) -> Tensor:
        """[num_heads, max_distance + 1] float32: the bias of keys that stand 0, 1, 2 … places before the query; all
        that stand further away have the last one's."""
        weight = self.table.weight
        query_positions = torch.full((1, 1), self.max_distance, device=weight.device)
        key_positions = torch.arange(self.max_distance, -1, -1, device=weight.device)
        return self(query_positions, key_positions)[0, :, 0].float()

    def _bucket(self, distance: Tensor) -> Tensor:
        """Half of the buckets hold exact distances, the rest grow with the logarithm up to the maximum."""
        num_buckets = self.num_buckets
        offset = torch.zeros_like(distance)
        if self.bidirectional:
            num_buckets //= 2
            offset = (distance > 0).long() * num_buckets
            distance = distance.abs()
        else:
            distance = (-distance).clamp(min=0)
        exact = num_buckets // 2
        growth = torch.log(distance.clamp(min=1).float() / exact) / math.log(self.max_distance / exact)
        coarse = (exact + (growth * (num_buckets - exact)).long()).clamp(max=num_buckets - 1)
        return offset + torch.where(distance < exact, distance, coarse)


def sinusoids(num_positions: int, hidden_size: int, frequency_shift: int = 0) -> Tensor:
    """[num_positions, hidden_size]: sines in the first half, cosines in the second (Vaswani et al. 2017).

    Real numbers even where a model is built without any: nobody stores this table.
    """
    half = hidden_size // 2
    # In double: a float32 angle of some hundreds is wrong in the fourth decimal.
    steps = torch.arange(half, dtype=torch.float64, device="cpu")
    frequencies = torch.exp(steps * -(math.log(10000.0) / (half - frequency_shift)))
    angles = torch.arange(num_positions, dtype=torch.float64, device="cpu")[:, None] * frequencies
    return torch.cat((angles.sin(), angles.cos()), dim=1).float()
