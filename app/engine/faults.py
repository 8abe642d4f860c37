"""What the engine knows of its own failures: whether memory was too short, how long a step may be expected to take."""

import torch

FIRST_STEP_SECONDS = 15.0
"""A model's first steps also lay out memory and choose kernels."""
_KEPT = 0.99


def is_out_of_memory(fault: BaseException) -> bool:
    """The device's memory, or the host's; torch has no class for the latter."""
    if isinstance(fault, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(fault, RuntimeError) and "allocate memory" in str(fault)


class Prospects:
    """How long each model's steps have taken at most, those of long ago counting less."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    def seconds(self, model: str) -> float:
        """What the next step may take, so that one that takes many times as long is a fault."""
        return self._seconds.get(model, FIRST_STEP_SECONDS)

    def forget(self, model: str) -> None:
        """It is gone."""
        self._seconds.pop(model, None)

    def note(self, model: str, seconds: float) -> None:
        """A step has taken so long."""
        self._seconds[model] = max(seconds, _KEPT * self._seconds.get(model, 0.0))
