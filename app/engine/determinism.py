"""Whether a model can be served so that a sequence's bits are the same in any batch."""

from model.config import CheckpointError
from model.kernels import can_decode
from model.layers.packed import can_pack
from model.transformer import Transformer


def check_deterministic(name: str, model: Transformer) -> None:
    """Raises CheckpointError that says what is in the way. Takes a fraction of a second: products are tried."""
    words = model.embeddings.words.weight
    reason = None
    if words.device.type != "cpu":
        reason = "this is done on a CPU only"
    elif not can_pack(words) or not can_decode(words.device, words.dtype):
        dtype = str(words.dtype).removeprefix("torch.")
        reason = f"{dtype} cannot be computed so here: it takes float32 or bfloat16, oneDNN, and this package's kernels"
    elif model.config.disentangled:
        reason = "scores against relative positions, as DeBERTa has them, are not computed so"
    else:
        first = {(one.shape, one.dtype): one for one in model.packed}.values()
        varying = next((one for one in first if one.varies()), None)
        if varying is not None:
            reason = f"on this processor the bits of a product of {tuple(varying.shape)} depend on the batch"
    if reason is not None:
        raise CheckpointError(f"--deterministic, model {name}: {reason}")
