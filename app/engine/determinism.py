"""Whether a model can be served so that a sequence's bits are the same in any batch."""

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from model.config import CheckpointError
from model.kernels import can_decode
from model.layers.packed import ServedWeight, can_pack
from model.transformer import Transformer

FUNCTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "exp": torch.exp,
    "log1p": torch.log1p,
    "cos": torch.cos,
    "sin": torch.sin,
    "log": torch.log,
}
"""What torch computes of each number by itself, in positions and in the sampler: by vectors, and at the ends of a
thread's share maybe otherwise. Activations are `model.layers.activations`' to see to."""

_NUMBERS = 70_001  # so many that threads share them
_PIECES = (1, 3, 17, 37, 333)


def check_deterministic(name: str, model: Transformer) -> None:
    """Raises CheckpointError that says what is in the way. Takes a fraction of a second: all is tried."""
    device, model_dtype = model.embeddings.words.weight.device, model.dtype
    reason = None
    if device.type != "cpu":
        reason = "this is done on a CPU only"
    elif not can_pack(torch.empty(0, dtype=model_dtype)) or not can_decode(device, model_dtype):
        dtype = str(model_dtype).removeprefix("torch.")
        reason = f"{dtype} cannot be computed so here: it takes float32 or bfloat16, oneDNN, and this package's kernels"
    elif model.config.disentangled:
        reason = "scores against relative positions, as DeBERTa has them, are not computed so"
    else:
        check_products(name, model.packed)
        for function in _varying_functions(model_dtype):
            reason = f"on this processor the bits of its {function} depend on the batch"
    if reason is not None:
        raise CheckpointError(f"--deterministic, model {name}: {reason}")


def check_products(name: str, packed: Iterable[ServedWeight]) -> None:
    """The same for a model's products, or an adapter's."""
    for one in {(one.shape, one.dtype): one for one in packed}.values():
        if one.varies():
            reason = f"on this processor the bits of a product of {tuple(one.shape)} depend on the batch"
            raise CheckpointError(f"--deterministic, model {name}: {reason}")


@torch.inference_mode()
def _varying_functions(dtype: torch.dtype) -> list[str]:
    """Those that give a number other bits in another place."""
    x = torch.randn(_NUMBERS, generator=torch.Generator().manual_seed(0)).abs()
    found = []
    for name, function in FUNCTIONS.items():
        for numbers in (x, x.to(dtype)):
            whole = function(numbers)
            places = [(start, start + count) for count in _PIECES for start in range(0, _NUMBERS, 9999)]
            if any(not torch.equal(function(numbers[i:j]), whole[i:j]) for i, j in places):
                found.append(name)
    return found
