"""Puts a recipe's stage together: where its model and tokenizer come from, and what it leaves."""

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from model.adapters import add_adapter, save_adapter
from model.config import TransformerConfig
from model.families import GENERATION, read_config
from model.layers.linear import LowRank
from model.loading import load_model, save_model
from model.tokenization import Tokenizer
from model.training import data as files
from model.training.checkpoint import AtomicFolder, drop_checkpoints, write_json
from model.training.config import TARGET_LANGUAGES, Recipe
from model.training.curve import draw_loss_curve
from model.training.grown import grow_adapter
from model.training.heads import replace_head
from model.training.loop import train
from model.training.objectives import build_objective, running_text, translation_texts
from model.training.tokenizer import save_tokenizer, train_byte_level, train_text_to_text
from model.transformer import OWN, Transformer

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt")


def run_stage(
    recipe: Recipe,
    data: Path,
    out: Path,
    init_from: Path | None,
    *,
    adapter_from: Path | None = None,
    checkpoint_minutes: float = 5.0,
    stop_after: int | None = None,
) -> dict[str, float]:
    """Train one recipe into the folder `out`, resuming what is there; returns the development scores.

    A recipe's adapter begins fresh, or as that of `adapter_from`, of the same head and no greater rank.

    Leaves the Hugging Face files (of an adapter: PEFT's), `log.jsonl`, `loss.png` and `result.json`.
    """
    if adapter_from is None and recipe.adapter_start is not None:
        raise FileNotFoundError(
            f"recipe {recipe.name} goes on from the adapter of {recipe.adapter_start}: give --adapter-from"
        )
    torch.manual_seed(recipe.schedule.seed)
    started = time.process_time()
    out.mkdir(parents=True, exist_ok=True)
    if recipe.architecture is not None and init_from is None:
        _prepare_fresh(recipe, data, out)
        model, source = Transformer(read_config(out)), out
    else:
        if init_from is None:
            raise FileNotFoundError(f"recipe {recipe.name} starts from {recipe.start}: give --init-from")
        model, source = load_model(init_from, torch.float32).requires_grad_(True), init_from
    tokenizer = Tokenizer.from_folder(source)
    config = _head_config(recipe, model.config, data)
    head = OWN
    if recipe.lora is not None:
        head = recipe.name
        model.requires_grad_(False)
        lora = recipe.lora
        add_adapter(model, head, config, lora.rank, lora.alpha, dropout=lora.dropout)
        if adapter_from is not None:
            grow_adapter(model, head, adapter_from)
    elif config != model.config:
        replace_head(model, config)
        model.config = config
    _set_dropout(model, recipe.dropout)
    objective = build_objective(recipe, model, tokenizer, config, data, head)
    scores = train(
        model, objective, recipe.schedule, out, checkpoint_minutes=checkpoint_minutes, stop_after=stop_after
    )
    if stop_after is not None:
        return scores
    if recipe.lora is not None:
        with AtomicFolder(out / "adapter") as folder:
            save_adapter(model, head, config, folder, source.name)
    else:
        with AtomicFolder(out / "model") as folder:
            save_model(model, folder)
            copy_tokenizer(source, folder)
            if recipe.generation:
                write_json(folder / GENERATION, recipe.generation)
    draw_loss_curve(out / "log.jsonl", out / "loss.png", recipe.name)
    minutes = (time.process_time() - started) / 60
    write_json(out / "result.json", {"recipe": recipe.name, "dev": scores, "processor_minutes": minutes})
    drop_checkpoints(out)
    return scores


def result_folder(out: Path) -> Path:
    """Where a finished stage left its weights."""
    return next((out / name for name in ("model", "adapter") if (out / name).is_dir()), out)


def copy_tokenizer(source: Path, target: Path) -> None:
    """The tokenizer's files, as they are."""
    for name in TOKENIZER_FILES:
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)


def _prepare_fresh(recipe: Recipe, data: Path, out: Path) -> None:
    """The config, and the tokenizer trained for it, of a model made from nothing."""
    architecture = dict(recipe.architecture or {})
    if not (out / "tokenizer.json").exists():
        size = int(architecture.get("vocab_size", 0))
        if recipe.objective == "next-token":
            trained = train_byte_level(running_text(recipe, data), size)
            save_tokenizer(trained, out, is_decoder=True, max_length=1024)
        elif recipe.objective == "span-corruption":
            trained = train_text_to_text(translation_texts(data), size, TARGET_LANGUAGES, 6)
            save_tokenizer(trained, out, is_decoder=False, max_length=512)
        else:
            copy_tokenizer(data.parent / str(recipe.options["tokenizer"]), out)
    architecture["vocab_size"] = Tokenizer.from_folder(out).vocab_size
    write_json(out / "config.json", architecture)


def _head_config(recipe: Recipe, config: TransformerConfig, data: Path) -> TransformerConfig:
    """The config of the model with the recipe's head."""
    if recipe.objective == "classification":
        labels = sorted(
            {label for name in recipe.datasets for _, label in files.labelled_texts(data, name, "train")}
        )
        return replace(config, head="sequence-class", labels=tuple(labels))
    if recipe.objective == "extractive-qa":
        return replace(config, head="span", labels=())
    if recipe.objective == "masked-lm":
        return replace(config, head="pretraining", labels=())
    return config


def _set_dropout(model: Transformer, rate: float | None) -> None:
    if rate is None:
        return
    for module in model.modules():
        if isinstance(module, LowRank):
            continue
        for child in module.children():
            if isinstance(child, nn.Dropout):
                child.p = rate


def read_result(out: Path) -> dict[str, object]:
    """The `result.json` of a finished stage, empty where it is not finished."""
    path = out / "result.json"
    found: dict[str, object] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found
