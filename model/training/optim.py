"""AdamW with warm-up, cosine decay, clipping and a running average of the weights."""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from model.training.config import Schedule

NamedParameters = dict[str, nn.Parameter]


def trainable(model: nn.Module) -> NamedParameters:
    """The parameters that take gradients, by name, in a fixed order."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def build_optimizer(parameters: NamedParameters, schedule: Schedule) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2019). Matrices decay, vectors do not.

    Adam moves every entry alike, whatever its size. In T5 the input table's entries are of size one, and
    the queries hold the 1/√d_k by which others divide their scores; so these learn `embedding_rate` and
    `query_rate` times as fast, which makes a step what it is for a Transformer in the usual scale. The
    upper matrix of a low-rank update learns `up_rate` times as fast (Hayou et al. 2024, LoRA+).
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        is_table = name.endswith("words.weight")
        decay = schedule.weight_decay if parameter.ndim > 1 and not is_table else 0.0
        scale = schedule.embedding_rate if is_table else 1.0
        if name.endswith(".query.weight"):
            scale = schedule.query_rate
        elif name.endswith(".up"):
            scale = schedule.up_rate
        groups.setdefault((decay, scale), []).append(parameter)
    return torch.optim.AdamW(
        [
            {"params": members, "weight_decay": decay, "scale": scale}
            for (decay, scale), members in groups.items()
        ],
        lr=schedule.learning_rate,
        betas=schedule.betas,
        eps=schedule.epsilon,
        fused=True,
    )


def learning_rate(schedule: Schedule, step: int, progress: float) -> float:
    """The rate at a step: linear warm-up over `warmup_steps`, then half a cosine over `progress` (0 to 1)
    down to `final_fraction` of the peak."""
    warm = min(1.0, (step + 1) / max(1, schedule.warmup_steps))
    cosine = 0.5 * (1.0 + math.cos(math.pi * min(1.0, max(0.0, progress))))
    return schedule.learning_rate * warm * (schedule.final_fraction + (1 - schedule.final_fraction) * cosine)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give every group its multiple of `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["scale"]


class WeightAverage:
    """Exponential moving average of the trained weights (Polyak and Juditsky 1992)."""

    def __init__(self, parameters: NamedParameters, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        self.shadow = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: NamedParameters) -> None:
        """Take in the weights after a step; early steps are forgotten faster."""
        self.num_updates += 1
        decay = min(self.decay, self.num_updates / (self.num_updates + 10))
        shadows: list[Tensor] = [self.shadow[name] for name in parameters]
        torch._foreach_lerp_(shadows, list(parameters.values()), 1.0 - decay)

    @torch.no_grad()
    def swap(self, parameters: NamedParameters) -> None:
        """Exchange the model's weights and the averages; call twice to get back."""
        for name, parameter in parameters.items():
            kept = parameter.detach().clone()
            parameter.copy_(self.shadow[name])
            self.shadow[name].copy_(kept)


def clip_gradients(parameters: Iterable[nn.Parameter], max_norm: float) -> float:
    """Scale gradients to a joint norm of at most `max_norm`; returns the norm before."""
    return float(nn.utils.clip_grad_norm_(list(parameters), max_norm))
