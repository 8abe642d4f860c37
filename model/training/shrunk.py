"""An adapter of a smaller rank that does nearly the same: the largest singular values of each update."""

from pathlib import Path

import torch

from model.adapters import load_adapter, save_adapter
from model.config import CheckpointError
from model.layers.linear import Linear, LowRank
from model.loading import load_model


@torch.no_grad()
def shrink_adapter(name: str, folder: Path, base: Path, rank: int) -> float:
    """Rewrites the adapter in `folder` with updates of `rank`, in float16; how much of their squared size is kept."""
    model = load_model(base, torch.float32)
    config = load_adapter(model, name, folder)
    kept = whole = 0.0
    for module in model.modules():
        update = module.adapters[name] if isinstance(module, Linear) and name in module.adapters else None
        if not isinstance(module, Linear) or not isinstance(update, LowRank):
            continue
        if not 0 < rank <= len(update.down):
            raise CheckpointError(f"{folder}: rank {rank}, of 1 to {len(update.down)} that an update has")
        left, sizes, right = torch.linalg.svd(update.up @ update.down, full_matrices=False)
        smaller = LowRank(module.in_features, module.out_features, rank, update.scale, 0.0)
        smaller.up.copy_(left[:, :rank] * sizes[:rank].sqrt())
        smaller.down.copy_(sizes[:rank, None].sqrt() * right[:rank])
        module.adapters[name] = smaller
        kept, whole = kept + float((sizes[:rank] ** 2).sum()), whole + float((sizes**2).sum())
    save_adapter(model, name, config, folder, base.name, torch.float16)
    return kept / whole
