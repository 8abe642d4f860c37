"""`quartet info PATH`: the facts of `app.commands.checkpoint`, for people or as JSON. Exit code 2: cannot be served."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from app.commands.checkpoint import describe

CANNOT_BE_SERVED = 2
_SHOWN = 8
"""Names of a long list that people are shown; `--json` has all."""


def run(path: str, as_json: bool) -> int:
    """Prints to stdout. Raises CheckpointError for a path that is no folder."""
    facts = describe(Path(path))
    if as_json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        print(facts["path"])
        for name, text in _lines(facts):
            print(f"  {name:<11} {text}")
    return 0 if facts["servable"] else CANNOT_BE_SERVED


def _lines(facts: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if facts["what"] == "adapter":
        yield (
            "adapter",
            f"{facts['method']} of rank {facts['rank']}, alpha {facts['alpha']}, on {facts['base']}",
        )
        yield "targets", _some(facts["targets"])
    if "family" in facts:
        published = ", ".join(facts.get("architectures", ())) or "no architecture named"
        yield "family", facts["family"] + (f" ({published})" if facts["what"] == "checkpoint" else "")
        yield "kind", f"{facts['kind']}, head {facts['head']}"
        yield "tasks", ", ".join(facts["tasks"]) or "none"
    if facts.get("labels"):
        several = ", any number of them at once" if facts["multi_label"] else ""
        yield "labels", f"{len(facts['labels'])}{several}: {_some(facts['labels'])}"
    if "parameters" in facts:
        yield "parameters", f"{facts['parameters']:,}"
    if "stored" in facts:
        yield "stored", _stored(facts["stored"])
    if "sizes" in facts:
        yield "sizes", _sizes(facts["sizes"])
    if "tokenizer" in facts:
        yield from _tokenizer(facts["tokenizer"])
    if "pooling" in facts:
        yield "pooling", _pooling(facts["pooling"])
    if facts.get("generation"):
        yield "generation", ", ".join(f"{key} {value}" for key, value in facts["generation"].items())
    if "weight_bytes" in facts:
        yield "weights", _memory(facts["weight_bytes"])
    if any(facts.get("cache_bytes_per_1000_tokens", {}).values()):
        yield "cache", f"{_memory(facts['cache_bytes_per_1000_tokens'])}, for 1,000 tokens"
    for key, name in (("missing", "missing"), ("left_over", "left over"), ("ignored", "ignored")):
        if facts.get(key):
            yield name, f"{len(facts[key])}: {_some(facts[key])}"
    yield from (("note", line) for line in facts["notes"])
    yield from (("refused", line) for line in facts["refused"])
    if facts["servable"]:
        yield "servable", "yes, on its base" if facts["what"] == "adapter" else "yes"


def _stored(stored: Mapping[str, Any]) -> str:
    files = "1 file" if stored["files"] == 1 else f"{stored['files']} files"
    numbers = stored["numbers_by_dtype"]
    total = sum(numbers.values()) or 1
    dtypes = ", ".join(
        dtype if len(numbers) == 1 else f"{dtype} {100 * count / total:.3g} %"
        for dtype, count in numbers.items()
    )
    return f"{stored['tensors']} tensors in {files}, {_bytes(stored['bytes'])}, as {dtypes}"


def _sizes(sizes: Mapping[str, int]) -> str:
    layers = [
        f"{sizes[f'{side}_layers']} {side}" for side in ("encoder", "decoder") if sizes[f"{side}_layers"]
    ]
    shared = sizes["key_value_heads"]
    grouped = "" if shared == sizes["heads"] else f" over {shared} of keys and values"
    return (
        f"vocabulary {sizes['vocabulary']:,}, hidden {sizes['hidden']:,}, feed-forward {sizes['feed_forward']:,}, "
        f"{' and '.join(layers)} layers, {sizes['heads']} heads of {sizes['head']}{grouped}, "
        f"{sizes['positions']:,} positions"
    )


def _tokenizer(tokenizer: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    limit = tokenizer["max_length"]
    length = f"at most {limit:,} tokens" if limit else "no limit of its own"
    chat = "a chat template" if tokenizer["chat_template"] else "no chat template"
    yield "tokenizer", f"{tokenizer['kind']}, {tokenizer['vocabulary']:,} entries, {length}, {chat}"
    special = (f"{key.removesuffix('_token')} {token}" for key, token in tokenizer["special_tokens"].items())
    yield "special", ", ".join(special) or "none named"


def _pooling(pooling: Mapping[str, Any]) -> str:
    scaled = ", scaled to length 1" if pooling["normalize"] else ""
    return f"{pooling['mode']}{scaled}" + ("" if pooling["published"] else " (nothing is published)")


def _memory(sizes: Mapping[str, int]) -> str:
    told = f"{_bytes(sizes['float32'])} in float32, {_bytes(sizes['bfloat16'])} in bfloat16 or float16"
    return told + "".join(
        f", {_bytes(sizes[name])} in {name}" for name in ("int8", "int4", "fp8") if name in sizes
    )


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.1f} GB"


def _some(names: Sequence[str] | str | None) -> str:
    if names is None or isinstance(names, str):
        return names or "none"
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
