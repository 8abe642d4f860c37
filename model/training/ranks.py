"""The processes that train one model together, each on batches of its own: data parallelism over equal weights."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn  # before any group is there: its functions keep, as defaults, the group they are born in
from torch import Tensor, nn

_LONGEST_WAIT = timedelta(hours=2)
"""For the others, while the first validates or writes a checkpoint."""


class Ranks:
    """One process among `size`; without others everything here is as if it were not."""

    def __init__(self, rank: int = 0, size: int = 1) -> None:
        self.rank, self.size = rank, size

    @classmethod
    def join(cls, device: str) -> "Ranks":
        """As `torchrun` started this process, else alone. `device` is cpu or cuda."""
        if not dist.is_torchelastic_launched():
            return cls()
        dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=_LONGEST_WAIT)
        return cls(dist.get_rank(), dist.get_world_size())

    def leave(self) -> None:
        """Once all are done. No thread of the group is left: one that lives on when Python ends aborts the process."""
        if self.size > 1:
            dist.destroy_process_group()

    @property
    def is_first(self) -> bool:
        """Whether this one validates, writes and talks."""
        return self.rank == 0

    @torch.no_grad()
    def average_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Every process gets the mean of all gradients: what one would have from the batches of all."""
        if self.size == 1:
            return
        gradients = [p.grad for p in parameters if p.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat)
        flat /= self.size
        for gradient, mean in zip(gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))

    def sums(self, values: Iterable[float], device: torch.device) -> list[float]:
        """Each value summed over all processes."""
        if self.size == 1:
            return list(values)
        total: Tensor = torch.tensor(list(values), dtype=torch.float64, device=device)
        dist.all_reduce(total)
        return total.tolist()

    def of_first(self, value: Any) -> Any:
        """What the first process has."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]
