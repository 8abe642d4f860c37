"""What a LoRA adapter in PEFT's format does to each linear layer: which tensors go where."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from model.config import CheckpointError, TransformerConfig
from model.families import FAMILIES, published_name
from model.layers.linear import Linear, LowRank, Update, WholeLayer
from model.transformer import Transformer


def read_updates(
    model: Transformer,
    config: TransformerConfig,
    left: dict[str, Tensor],
    settings: Mapping[str, Any],
    file: Path,
) -> list[tuple[Linear, Update]]:
    """The updates by layer. What is used is taken out of `left`, which maps published names to tensors of `file`.

    CheckpointError for tensors that do not fit; the model is only looked at.
    """
    layers: dict[str, list[Linear]] = {}
    for module_name, module in model.named_modules():
        if isinstance(module, Linear) and not module_name.startswith("heads."):
            published = published_name(f"{module_name}.weight", config).removesuffix(".weight")
            layers.setdefault(published, []).append(module)
    family = FAMILIES[config.family]
    updates: list[tuple[Linear, Update]] = []
    for published, modules in layers.items():
        # The second where the adapter was made on the bare model.
        for key in dict.fromkeys((published, published.removeprefix(family.base_prefix))):
            updates += _low_ranks(key, modules, left, settings, file)
            is_transposed = re.fullmatch(family.transposed, f"{key}.weight") is not None
            updates += _whole(key, modules, left, is_transposed, file)
    if len({id(layer) for layer, _ in updates}) < len(updates):
        raise CheckpointError(f"{file}: two updates of one layer")
    _drop_copies(model, config, left)
    return updates


def _low_ranks(
    key: str, modules: Sequence[Linear], left: dict[str, Tensor], settings: Mapping[str, Any], file: Path
) -> list[tuple[Linear, Update]]:
    """LoRA on a published layer, which may be several of ours (GPT-2): they share `down`, and cut `up`."""
    down, up = (left.pop(f"{key}.lora_{part}.weight", None) for part in "AB")
    if down is None and up is None:
        return []
    rank = int(_pattern_value(settings, "rank_pattern", key, settings.get("r", 8)))
    sizes = [module.out_features for module in modules]
    wanted = [rank, modules[0].in_features], [sum(sizes), rank]
    if down is None or up is None or (list(down.shape), list(up.shape)) != wanted:
        raise CheckpointError(f"{file}: {key}.lora_A and lora_B do not fit the base and rank {rank}")
    alpha = float(_pattern_value(settings, "alpha_pattern", key, settings.get("lora_alpha", 8)))
    scale = alpha / rank**0.5 if settings.get("use_rslora") else alpha / rank
    updates: list[tuple[Linear, Update]] = []
    for module, part in zip(modules, torch.split(up, sizes), strict=True):
        low_rank = LowRank(module.in_features, module.out_features, rank, scale, 0.0)
        low_rank.down, low_rank.up = nn.Parameter(down), nn.Parameter(part.contiguous())
        updates.append((module, low_rank))
    return updates


def _whole(
    key: str, modules: Sequence[Linear], left: dict[str, Tensor], is_transposed: bool, file: Path
) -> list[tuple[Linear, Update]]:
    """A layer in `modules_to_save`."""
    weight, bias = left.get(f"{key}.weight"), left.get(f"{key}.bias")
    if weight is None or len(modules) > 1:
        return []
    module, weight = modules[0], weight.t() if is_transposed else weight
    if weight.shape != module.weight.shape or (bias is None) != (module.bias is None):
        raise CheckpointError(f"{file}: {key}.weight does not fit the base")
    left.pop(f"{key}.weight")
    left.pop(f"{key}.bias", None)
    return [(module, WholeLayer(weight.contiguous(), bias))]


def _drop_copies(model: Transformer, config: TransformerConfig, left: dict[str, Tensor]) -> None:
    """PEFT stores the tables, unchanged, beside an update of the output layer."""
    table = published_name("embeddings.words.weight", config)
    if table in left and torch.equal(left[table], model.embeddings.words.weight.to(left[table].dtype)):
        del left[table]
    if model.lm_head is None:
        return
    head = published_name("lm_head.weight", config).replace(".weight", ".base_layer.weight")
    if head in left and model.lm_head.holds(left[head]):
        del left[head]


def _pattern_value(settings: Mapping[str, Any], patterns: str, key: str, default: Any) -> Any:
    """As PEFT reads them: the first pattern that ends the layer's name counts."""
    for pattern, value in (settings.get(patterns) or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", key):
            return value
    return default
