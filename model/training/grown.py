"""An adapter that begins where a smaller one ended."""

from pathlib import Path

import torch

from model.adapters import read_adapter
from model.config import CheckpointError
from model.layers.linear import LowRank
from model.transformer import Transformer


@torch.no_grad()
def grow_adapter(model: Transformer, name: str, folder: Path) -> None:
    """Gives adapter `name` of `model`, fresh and of no smaller rank, the weights of the one in `folder`: the same
    outputs, with ranks to spare. Its further `down` rows stay random and its further `up` columns zero, as LoRA begins.

    CheckpointError where the two do not fit.
    """
    smaller = read_adapter(model, name, folder)
    for module, update in smaller.updates:
        own = module.adapters[name] if name in module.adapters else None  # noqa: SIM401 - a ModuleDict has no get
        if not isinstance(own, LowRank) or not isinstance(update, LowRank):
            raise CheckpointError(f"{folder}: an update of a layer that the new adapter does not change so")
        rank = len(update.down)
        if rank > len(own.down):
            raise CheckpointError(f"{folder}: rank {rank}, the new adapter has {len(own.down)}")
        own.down[:rank] = update.down
        own.up[:, :rank] = update.up * (update.scale / own.scale)
    if smaller.head is not None:
        model.heads[name].load_state_dict(smaller.head.state_dict())
