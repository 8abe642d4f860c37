"""LoRA adapters in PEFT's folder format: made, saved and loaded onto a base that is held once.

An adapter is low-rank updates on linear layers, layers that it brings whole, and a head of its own
(both `modules_to_save`). A `config.json` beside it names that head and its labels; PEFT itself writes none.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.config import CheckpointError, TransformerConfig
from model.families import published_name, read_adapter_config, read_json, to_hf_config
from model.heads import HEADS, fresh_head, pack_head, scores_words
from model.layers.linear import Linear, LowRank, Update
from model.layers.packed import ServedWeight
from model.loading import check_weight
from model.lora import read_updates
from model.lora_settings import check_settings
from model.stored import ADAPTER_CONFIG as CONFIG
from model.stored import ADAPTER_WEIGHTS as WEIGHTS
from model.transformer import Transformer

_PREFIX = "base_model.model."


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
        module.adapters[name] = low_rank.to(model.embeddings.words.weight.device)
        trainable += low_rank.parameters()
    if config.head in HEADS:
        model.heads[name] = fresh_head(config)
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
    ranks: dict[str, int] = {}
    alphas: dict[str, float] = {}
    for module_name, module in model.named_modules():
        if isinstance(module, Linear) and name in module.adapters:
            low_rank = module.adapters[name]
            published = published_name(f"{module_name}.weight", config).removesuffix(".weight")
            if not isinstance(low_rank, LowRank) or published in ranks:
                raise CheckpointError(f"adapter {name}: its update of {published} cannot be written")
            ranks[published] = low_rank.down.shape[0]
            alphas[published] = low_rank.scale * ranks[published]
            tensors[f"{_PREFIX}{published}.lora_A.weight"] = low_rank.down.detach()
            tensors[f"{_PREFIX}{published}.lora_B.weight"] = low_rank.up.detach()
    saved = set()
    if name in model.heads:
        for leaf, parameter in model.heads[name].named_parameters():
            published = published_name(f"heads.{name}.{leaf}", config)
            saved.add(_saved_module(published))
            tensors[_PREFIX + published] = parameter.detach()
    folder.mkdir(parents=True, exist_ok=True)
    save_file(
        {key: value.to("cpu", dtype or value.dtype).contiguous() for key, value in tensors.items()},
        folder / WEIGHTS,
        metadata={"format": "pt"},
    )
    rank, alpha = next(iter(ranks.values()), 1), next(iter(alphas.values()), 1.0)
    adapter = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": base_name,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {key: value for key, value in ranks.items() if value != rank},
        "alpha_pattern": {key: value for key, value in alphas.items() if value != alpha},
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
        "inference_mode": True,
        "target_modules": _target_pattern(set(ranks)),
        "modules_to_save": sorted(saved) or None,
    }
    (folder / CONFIG).write_text(json.dumps(adapter, indent=2) + "\n")
    raw = to_hf_config(config)
    (folder / "config.json").write_text(json.dumps(raw, indent=2, ensure_ascii=False) + "\n")


@dataclass(frozen=True)
class AdapterWeights:
    """An adapter that was read for one model and is not on it yet: updates of its layers, and a head of its own."""

    config: TransformerConfig
    updates: list[tuple[Linear, Update]]
    head: nn.Module | None
    packed: list[ServedWeight] = field(default_factory=list)
    """What it shares with nobody, where the model is packed."""
    words: ServedWeight | None = None
    """The model's table, where it was not packed before this head wanted it."""

    def attach(self, model: Transformer, name: str) -> None:
        """Puts it on the model that it was read for; rows that name it go through it from now on."""
        for module, update in self.updates:
            module.adapters[name] = update
        if self.head is not None:
            model.heads[name] = self.head
        if self.words is not None:
            model.packed_words = self.words

    @property
    def parameters(self) -> list[nn.Parameter]:
        """All weights of its own."""
        parts = [*(update for _, update in self.updates), *([] if self.head is None else [self.head])]
        return [parameter for part in parts for parameter in part.parameters()]


def read_adapter(model: Transformer, name: str, folder: Path) -> AdapterWeights:
    """The adapter in `folder`, on the model's device and in its dtype; the model is only looked at.

    Raises CheckpointError for a kind of adapter that is not served, and for weights that are
    missing, left over, or do not fit.
    """
    _check_name(name)
    settings = read_json(folder / CONFIG)
    config = read_adapter_config(model.config, folder)
    try:
        check_settings(settings)
        updates, head = _read_updates(model, config, name, folder, settings)
    except (ArithmeticError, AttributeError, TypeError, ValueError, re.error) as fault:
        raise CheckpointError(f"{folder / CONFIG}: {fault}") from None
    for _, update in updates:
        update.eval().requires_grad_(False)
    if not model.packed:
        return AdapterWeights(config, updates, head)
    packed = [one for _, update in updates for one in update.pack()]
    words = None
    if head is not None:
        if model.packed_words is None and scores_words(head):
            words = model.words_packing.pack(model.embeddings.words.weight)
        packed += pack_head(head)
    return AdapterWeights(config, updates, head, packed, words)


def load_adapter(model: Transformer, name: str, folder: Path) -> TransformerConfig:
    """Puts the adapter in `folder` on `model` under `name`; returns its config. Raises as `read_adapter`."""
    weights = read_adapter(model, name, folder)
    weights.attach(model, name)
    return weights.config


def remove_adapter(model: Transformer, name: str) -> None:
    """Takes an adapter off; its weights are freed."""
    for module in model.modules():
        if isinstance(module, Linear) and name in module.adapters:
            del module.adapters[name]
    if name in model.heads:
        del model.heads[name]


def _read_updates(
    model: Transformer, config: TransformerConfig, name: str, folder: Path, settings: Mapping[str, Any]
) -> tuple[list[tuple[Linear, Update]], nn.Module | None]:
    """The updates by layer, and the head of the adapter's own; the model is only looked at."""
    file = folder / WEIGHTS
    try:
        stored = load_file(file)
    except (SafetensorError, OSError) as fault:
        raise CheckpointError(f"{file}: {fault}") from None
    like = model.embeddings.words.weight.new_empty(0, dtype=model.dtype)
    left: dict[str, Tensor] = {}
    for key, value in stored.items():
        check_weight(value, f"{file}: {key}")
        left[key.removeprefix(_PREFIX)] = value.to(like.device, like.dtype)
    updates = read_updates(model, config, left, settings, file)
    head = _load_head(config, name, left, folder, like) if config.head in HEADS else None
    if left:
        raise CheckpointError(
            f"{file}: left over {next(iter(left))}: no layer that an adapter can change here"
        )
    return updates, head


def _load_head(
    config: TransformerConfig, name: str, left: dict[str, Tensor], folder: Path, like: Tensor
) -> nn.Module:
    head = fresh_head(config).to(like.device, like.dtype)
    for leaf, parameter in head.named_parameters():
        published = published_name(f"heads.{name}.{leaf}", config)
        value = left.pop(published, None)
        if value is None or value.shape != parameter.shape:
            raise CheckpointError(f"{folder / WEIGHTS}: {published} is missing or has another shape")
        parameter.data = value
    return head.eval().requires_grad_(False)


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
