"""LoRA adapters in PEFT's folder format: made, saved and loaded onto a base that is held once.

An adapter is low-rank updates on linear layers, and a head of its own (`modules_to_save`). Its
`config.json` names that head and its labels.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.config import CheckpointError, TransformerConfig
from model.families import FAMILIES, read_config, read_json, to_hf_config
from model.heads import HEADS
from model.layers.linear import Linear, LowRank
from model.transformer import Transformer

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."


def read_adapter_config(base: TransformerConfig, folder: Path) -> TransformerConfig:
    """What the base becomes under the adapter in `folder`: another head, other labels."""
    if not (folder / "config.json").is_file():
        return base
    config = read_config(folder)
    if (config.family, config.hidden_size) != (base.family, base.hidden_size):
        raise CheckpointError(f"{folder / 'config.json'}: not an adapter for this base")
    return config


def add_adapter(
    model: Transformer,
    name: str,
    config: TransformerConfig,
    rank: int,
    alpha: float,
    targets: str = r"(en|de)coder\.layers\..*",
    dropout: float = 0.0,
    use_rslora: bool = False,
) -> list[nn.Parameter]:
    """Puts a fresh adapter `name` on every linear whose name matches `targets`, and `config`'s head.

    Returns the parameters to train; everything else of the model is left as it is.
    """
    _check_name(name)
    trainable: list[nn.Parameter] = []
    for module_name, module in model.named_modules():
        if not isinstance(module, Linear) or not re.fullmatch(targets, module_name):
            continue
        scale = alpha / rank**0.5 if use_rslora else alpha / rank
        low_rank = LowRank(module.in_features, module.out_features, rank, scale, dropout)
        module.adapters[name] = low_rank.to(module.weight.device)
        trainable += low_rank.parameters()
    if config.head in HEADS:
        model.heads[name] = _fresh_head(config)
        trainable += model.heads[name].parameters()
    return trainable


def save_adapter(
    model: Transformer,
    name: str,
    config: TransformerConfig,
    folder: Path,
    base_name: str,
    dtype: torch.dtype | None = None,
) -> None:
    """Writes adapter `name` as `peft` reads it, with a `config.json` for its head."""
    tensors: dict[str, Tensor] = {}
    targets, scale, rank = set(), 1.0, 0
    for module_name, module in model.named_modules():
        if isinstance(module, Linear) and name in module.adapters:
            low_rank = module.adapters[name]
            assert isinstance(low_rank, LowRank)
            published = _published(f"{module_name}.weight", config).removesuffix(".weight")
            if published in targets:  # one low-rank update there is shared by all that it holds
                raise CheckpointError(f"adapter {name}: its updates of {published} cannot be written as one")
            targets.add(published)
            scale, rank = low_rank.scale, low_rank.down.shape[0]
            tensors[f"{_PREFIX}{published}.lora_A.weight"] = low_rank.down.detach()
            tensors[f"{_PREFIX}{published}.lora_B.weight"] = low_rank.up.detach()
    saved = set()
    if name in model.heads:
        for leaf, parameter in model.heads[name].named_parameters():
            published = _published(f"heads.{name}.{leaf}", config)
            saved.add(_saved_module(published))
            tensors[_PREFIX + published] = parameter.detach()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {key: value.to("cpu", dtype or value.dtype).contiguous() for key, value in tensors.items()},
        folder / WEIGHTS,
        metadata={"format": "pt"},
    )
    adapter = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base_name,
        "r": rank,
        "lora_alpha": scale * rank,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "inference_mode": True,
        "target_modules": _target_pattern(targets),
        "modules_to_save": sorted(saved) or None,
    }
    (folder / CONFIG).write_text(json.dumps(adapter, indent=2) + "\n")
    raw = to_hf_config(config)
    (folder / "config.json").write_text(json.dumps(raw, indent=2, ensure_ascii=False) + "\n")


def load_adapter(model: Transformer, name: str, folder: Path) -> TransformerConfig:
    """Puts the adapter in `folder` on `model` under `name`; returns its config.

    Raises CheckpointError for weights that are missing, left over or of a wrong shape.
    """
    _check_name(name)
    settings = read_json(folder / CONFIG)
    if settings.get("peft_type") != "LORA" or settings.get("use_dora"):
        raise CheckpointError(f"{folder / CONFIG}: only plain LoRA adapters are served")
    config = read_adapter_config(model.config, folder)
    try:
        stored = load_file(folder / WEIGHTS)
    except (SafetensorError, OSError) as fault:
        raise CheckpointError(f"{folder / WEIGHTS}: {fault}") from None
    like = next(model.parameters())
    left = {key.removeprefix(_PREFIX): value.to(like.device, like.dtype) for key, value in stored.items()}
    for module_name, module in model.named_modules():
        if not isinstance(module, Linear) or module_name.startswith("heads."):
            continue
        published = _published(f"{module_name}.weight", config).removesuffix(".weight")
        down, up = (_take(left, f"{published}.lora_{part}.weight", model, config) for part in "AB")
        if down is None and up is None:
            continue
        if (
            down is None
            or up is None
            or (down.shape[1], up.shape[0]) != (module.in_features, module.out_features)
        ):
            raise CheckpointError(f"{folder / WEIGHTS}: {published} does not fit the base")
        rank = down.shape[0]
        low_rank = LowRank(
            module.in_features, module.out_features, rank, _scale(settings, published, rank), 0.0
        )
        low_rank.down, low_rank.up = nn.Parameter(down), nn.Parameter(up)
        module.adapters[name] = low_rank.eval().requires_grad_(False)
    if config.head in HEADS:
        model.heads[name] = _load_head(config, name, left, folder, like)
    if left:
        raise CheckpointError(f"{folder / WEIGHTS}: left over {next(iter(left))}")
    return config


def _load_head(
    config: TransformerConfig, name: str, left: dict[str, Tensor], folder: Path, like: Tensor
) -> nn.Module:
    head = _fresh_head(config).to(like.device, like.dtype)
    for leaf, parameter in head.named_parameters():
        published = _published(f"heads.{name}.{leaf}", config)
        value = left.pop(published, None)
        if value is None or value.shape != parameter.shape:
            raise CheckpointError(f"{folder / WEIGHTS}: {published} is missing or has another shape")
        parameter.data = value
    return head.eval().requires_grad_(False)


def _fresh_head(config: TransformerConfig) -> nn.Module:
    head = HEADS[config.head](config)
    for module in head.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=config.initializer_range)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return head


def _published(parameter: str, config: TransformerConfig) -> str:
    return FAMILIES[config.family].published_name(parameter, config)


def _take(left: dict[str, Tensor], key: str, model: Transformer, config: TransformerConfig) -> Tensor | None:
    """A stored tensor; an adapter made on the bare model lacks the family's prefix."""
    prefix = FAMILIES[config.family].base_prefix
    value = left.pop(key, None)
    return left.pop(key.removeprefix(prefix), None) if value is None else value


def _scale(settings: Mapping[str, Any], published: str, rank: int) -> float:
    alpha = float(settings.get("lora_alpha", rank))
    for pattern, value in (settings.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?{pattern}", published):
            alpha = float(value)
    return alpha / rank**0.5 if settings.get("use_rslora") else alpha / rank


def _target_pattern(targets: set[str]) -> str:
    """One regular expression for the modules, layer numbers folded."""
    folded = sorted({re.sub(r"\\\.\d+\\\.", lambda _: r"\.\d+\.", re.escape(t)) for t in targets})
    return "|".join(folded)


def _saved_module(published: str) -> str:
    """The module that PEFT saves whole for a head's parameter: the last name before its leaf."""
    return published.rsplit(".", 1)[0]


def _check_name(name: str) -> None:
    if not re.fullmatch(r"[A-Za-z0-9_-]+", name):
        raise CheckpointError(f"adapter name {name!r}: letters, digits, - and _ only")
