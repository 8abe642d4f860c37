"""Whether the tensors that a folder stores are those that its config needs, told by their names.

`python -m model.fit FOLDER` prints it as JSON, for whoever must not import torch. Reads headers, no weights.
"""

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from model.config import CheckpointError
from model.families import FAMILIES, read_config
from model.heads import MaskedLMHead, scores_words
from model.layers.linear import Linear
from model.layers.quantized import GROUP
from model.loading import WORDS, unfilled_model, wanted_tensors
from model.stored import read_tensors
from model.transformer import Transformer


@dataclass(frozen=True)
class Fit:
    """Published names. `ignored` are stored and harmless: copies of tied tables, buffers, unused heads.
    `quantized_bytes` is what the weights take by quantization, what is left as it is taken for bfloat16."""

    num_parameters: int
    quantized_bytes: dict[str, int]
    used: list[str]
    ignored: list[str]
    missing: list[str]
    left_over: list[str]


def compare_names(folder: Path) -> Fit:
    """What `model.loading.load_model` would say of the names in `folder`.

    Raises CheckpointError for a config without a model and for headers that cannot be read.
    """
    config, stored = read_config(folder), read_tensors(folder)
    family = FAMILIES[config.family]
    model = unfilled_model(config, folder)
    wanted = wanted_tensors(model, family)
    used: list[str] = []
    ignored: list[str] = []
    copies: list[str] = []
    left_over: list[str] = []
    filled: set[str] = set()
    for name in stored:
        ours = wanted.get(name) or wanted.get(family.base_prefix + name)
        if ours is not None:
            used.append(name)
            filled.update(ours)
        elif re.fullmatch(family.copies, name):
            copies.append(name)
        else:
            (ignored if re.fullmatch(family.harmless, name) else left_over).append(name)
    if copies and WORDS not in filled:
        used.append(copies.pop(0))
        filled.add(WORDS)
    missing = [
        theirs
        for theirs, ours in wanted.items()
        if not filled.issuperset(ours) and not re.fullmatch(family.zero_if_missing, theirs)
    ]
    return Fit(model.num_parameters, quantized_bytes(model), used, ignored + copies, missing, left_over)


def quantized_bytes(model: Transformer) -> dict[str, int]:
    """What `Transformer.quantize` would make of it: bytes of codes, scales and all the rest, by quantization."""
    stacks = [
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, Linear)
        and name.startswith(("encoder.", "decoder."))
        and ".positions." not in name
    ]
    own = [model.lm_head.weight.numel()] if model.lm_head is not None else []
    own += [
        head.projection.numel()
        for head in model.heads.modules()
        if isinstance(head, MaskedLMHead) and head.projection is not None
    ]
    is_tied = model.lm_head is None and model.decoder is not None
    is_tied = is_tied or any(scores_words(head) for head in model.heads.values())
    scored = sum(own) + (model.embeddings.words.weight.numel() if is_tied else 0)
    rest = 2 * (model.num_parameters - sum(stacks) - sum(own))
    return {
        "int8": rest + scored + sum(stacks),
        "int4": rest + scored + int(sum(stacks) * (0.5 + 4 / GROUP)),
        "fp8": rest + scored + sum(stacks),
    }


def main(arguments: Sequence[str]) -> int:
    """Prints the fit, or `{"error": …}`."""
    folder = Path(arguments[0])
    try:
        told: dict[str, object] = asdict(compare_names(folder))
    except CheckpointError as fault:
        told = {"error": str(fault)}
    sys.stdout.write(json.dumps(told))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
