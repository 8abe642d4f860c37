"""What a folder holds, as plain facts: family, tasks, sizes, tokenizer, memory, and why it could not be served.

Reads JSON and headers, never weights. Each fault is noted and the reading goes on, so that all are told at once.
"""

import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from app.tasks.served import find_tasks
from model.config import CheckpointError, TransformerConfig
from model.families import read_config, read_generation_config, read_json
from model.generation_config import GenerationConfig
from model.lora_settings import check_settings
from model.pooling import read_pooling
from model.stored import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    FLOATS,
    StoredTensor,
    read_header,
    read_tensors,
    weight_files,
)
from model.tokenization import ChatTemplate, Tokenizer

FIT_COMMAND = (sys.executable, "-m", "model.fit")
"""Builds the model on no device to know its names, which takes torch: a process of its own."""
DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}

T = TypeVar("T")


class _Reader:
    """Collects facts, and in `refused` a line for each reason not to serve."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.refused: list[str] = []
        self.notes: list[str] = []

    def attempt(self, read: Callable[[], T]) -> T | None:
        """None, and a reason, where the folder does not have it right."""
        try:
            return read()
        except CheckpointError as fault:
            if str(fault) not in self.refused:
                self.refused.append(str(fault))
            return None


def describe(folder: Path) -> dict[str, Any]:
    """The facts, ready for JSON; `refused` is empty where the folder can be served.

    Raises CheckpointError for a path that is no folder.
    """
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is not a folder; `quartet download org/repo` makes one")
    reader = _Reader(folder)
    is_adapter = (folder / ADAPTER_CONFIG).is_file()
    facts = _adapter(reader) if is_adapter else _checkpoint(reader)
    return {"path": str(folder), "servable": not reader.refused, **facts} | {
        "notes": reader.notes,
        "refused": reader.refused,
    }


def _checkpoint(reader: _Reader) -> dict[str, Any]:
    folder = reader.folder
    config = reader.attempt(lambda: read_config(folder))
    tensors = reader.attempt(lambda: read_tensors(folder))
    facts: dict[str, Any] = {"what": "checkpoint"}
    if config is not None:
        facts |= _shape(reader, config)
    if tensors is not None:
        facts["stored"] = _stored([*weight_files(folder)], tensors)
    if config is not None and tensors is not None:
        facts |= _fit(reader, config, tensors)
    tokenizer = reader.attempt(lambda: Tokenizer.from_folder(folder))
    if tokenizer is not None:
        facts["tokenizer"] = _tokenizer(folder, tokenizer)
        if config is not None and tokenizer.vocab_size > config.vocab_size:
            reader.notes.append(
                f"the tokenizer has {tokenizer.vocab_size} entries, the model {config.vocab_size}: "
                "a text with one of the others cannot be computed"
            )
    return facts


def _shape(reader: _Reader, config: TransformerConfig) -> dict[str, Any]:
    """All that follows from `config.json` and its companions."""
    folder = reader.folder
    raw = read_json(folder / "config.json")
    template = reader.attempt(lambda: ChatTemplate.from_folder(folder))
    tasks = [task.name for task in find_tasks(config, template is not None)]
    if not tasks:
        reader.refused.append(
            f"no task is served yet for this kind ({config.kind}) with head {config.head!r}"
        )
    if raw.get("quantization_config"):
        reader.refused.append(
            f"{folder / 'config.json'}: quantization_config: quantized weights are not served"
        )
    if raw.get("auto_map"):
        reader.notes.append("auto_map names code in the repository; it is never run")
    facts: dict[str, Any] = {
        "family": config.family,
        "architectures": raw.get("architectures") or [],
        "kind": config.kind,
        "head": config.head,
        "tasks": tasks,
        "labels": list(config.labels),
        "multi_label": config.multi_label,
        "sizes": {
            "vocabulary": config.vocab_size,
            "hidden": config.hidden_size,
            "feed_forward": config.intermediate_size,
            "encoder_layers": config.num_encoder_layers,
            "decoder_layers": config.num_decoder_layers,
            "heads": config.num_heads,
            "key_value_heads": config.num_kv_heads,
            "head": config.head_dim,
            "positions": config.max_positions,
        },
    }
    if config.kind == "encoder" and config.head == "none":
        pooling = reader.attempt(lambda: read_pooling(folder))
        is_published = (folder / "1_Pooling" / "config.json").is_file()
        if pooling is not None:
            facts["pooling"] = {**asdict(pooling), "published": is_published}
    if config.kind != "encoder":
        facts["generation"] = _changed(read_generation_config(folder, config.vocab_size))
    per_token = 2 * config.num_decoder_layers * config.num_kv_heads * config.head_dim
    facts["cache_bytes_per_1000_tokens"] = {
        name: 1000 * per_token * size for name, size in DTYPE_BYTES.items()
    }
    return facts


def _fit(reader: _Reader, config: TransformerConfig, tensors: Mapping[str, StoredTensor]) -> dict[str, Any]:
    """Parameters, memory, and which tensors the config has no use for or lacks."""
    fit = run_fit(reader.folder)
    if "error" in fit:
        if fit["error"] not in reader.refused:
            reader.refused.append(fit["error"])
        return {}
    for key, what in (("missing", "are missing"), ("left_over", "are left over")):
        if fit[key]:
            reader.refused.append(
                f"weights do not fit config.json: {len(fit[key])} {what}, the first is {fit[key][0]}"
            )
    reader.refused += [
        f"{name} is stored as {tensors[name].dtype}, but weights are floating-point numbers"
        for name in fit["used"]
        if tensors[name].dtype not in FLOATS
    ][:1]
    count = fit["num_parameters"]
    return {
        "parameters": count,
        "weight_bytes": {name: count * size for name, size in DTYPE_BYTES.items()} | fit["quantized_bytes"],
        "missing": fit["missing"],
        "left_over": fit["left_over"],
        "ignored": fit["ignored"],
    }


def run_fit(folder: Path) -> dict[str, Any]:
    """`model.fit`'s answer, or an `error`."""
    run = subprocess.run([*FIT_COMMAND, str(folder)], capture_output=True, text=True, check=False)
    if run.returncode == 0:
        told: dict[str, Any] = json.loads(run.stdout)
        return told
    last = (run.stderr.strip() or f"{FIT_COMMAND[-1]} ended with {run.returncode}").splitlines()[-1]
    return {"error": f"{folder}: no model can be built of it: {last}"}


def _adapter(reader: _Reader) -> dict[str, Any]:
    """What PEFT wrote; whether it fits is known only where its base is."""
    folder = reader.folder
    settings = reader.attempt(lambda: read_json(folder / ADAPTER_CONFIG)) or {}
    try:
        check_settings(settings)
    except ValueError as fault:
        reader.refused.append(f"{folder / ADAPTER_CONFIG}: {fault}")
    facts: dict[str, Any] = {
        "what": "adapter",
        "method": settings.get("peft_type"),
        "base": settings.get("base_model_name_or_path"),
        "rank": settings.get("r"),
        "alpha": settings.get("lora_alpha"),
        "targets": settings.get("target_modules"),
        "whole_modules": settings.get("modules_to_save") or [],
    }
    if (folder / "config.json").is_file():
        config = reader.attempt(lambda: read_config(folder))
        if config is not None:
            template = reader.attempt(lambda: ChatTemplate.from_folder(folder))
            tasks = [task.name for task in find_tasks(config, template is not None)]
            facts |= {"family": config.family, "kind": config.kind, "head": config.head, "tasks": tasks}
            facts |= {"labels": list(config.labels), "multi_label": config.multi_label}
    else:
        reader.notes.append("no config.json beside it: head, labels and tasks are those of its base")
    tensors = reader.attempt(lambda: read_header(folder / ADAPTER_WEIGHTS))
    if tensors is not None:
        facts["parameters"] = sum(tensor.num_elements for tensor in tensors.values())
        facts["stored"] = _stored([folder / ADAPTER_WEIGHTS], tensors)
    if (folder / "tokenizer.json").is_file():
        tokenizer = reader.attempt(lambda: Tokenizer.from_folder(folder))
        if tokenizer is not None:
            facts["tokenizer"] = _tokenizer(folder, tokenizer)
    return facts


def _stored(files: list[Path], tensors: Mapping[str, StoredTensor]) -> dict[str, Any]:
    numbers: Counter[str] = Counter()
    for tensor in tensors.values():
        numbers[tensor.dtype] += tensor.num_elements
    return {
        "files": len(files),
        "bytes": sum(file.stat().st_size for file in files),
        "tensors": len(tensors),
        "numbers_by_dtype": dict(numbers.most_common()),
    }


def _tokenizer(folder: Path, tokenizer: Tokenizer) -> dict[str, Any]:
    in_settings = tokenizer.settings.get("chat_template") is not None
    return {
        "kind": tokenizer.kind,
        "vocabulary": tokenizer.vocab_size,
        "max_length": tokenizer.max_length,
        "special_tokens": tokenizer.special_tokens,
        "chat_template": in_settings or any(folder.glob("chat_template.*")),
    }


def _changed(generation: GenerationConfig) -> dict[str, Any]:
    """What is published, that is, not as it would be without a word."""
    plain = asdict(GenerationConfig())
    return {key: value for key, value in asdict(generation).items() if value != plain[key]}
