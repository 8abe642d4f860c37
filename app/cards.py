"""What is told of the served models: OpenAI's model objects, and all that is known for `/info`."""

from typing import Any

from app.engine.protocol import ModelInfo
from app.tasks.served import Served

_DETAILS = (
    "dtype",
    "quantization",
    "kv_cache_dtype",
    "device",
    "parameters",
    "bytes",
    "load_seconds",
    "block_size",
)


def model_card(one: Served, info: ModelInfo | None, created: int) -> dict[str, Any]:
    """OpenAI's model object and, beside it, what we know; `created` is in Unix seconds."""
    card: dict[str, Any] = {
        "id": one.name,
        "object": "model",
        "created": created,
        "owned_by": "quartet",
        "tasks": [task.name for task in one.tasks],
        "kind": one.config.kind,
    }
    if one.base is not None:
        card["base"] = one.base
    if one.config.labels:
        card["labels"] = list(one.config.labels)
    if languages := one.languages():
        card["languages"] = languages
    if info is not None:
        card["max_model_len"] = info.max_model_len
    return card


def details(info: ModelInfo | None) -> dict[str, Any]:
    """What the engine tells of a model, {} before it does."""
    if info is None:
        return {}
    return {name: getattr(info, name) for name in _DETAILS} | {"kv_cache_blocks": info.num_blocks}
