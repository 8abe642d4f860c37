"""Weights from and to Hugging Face folders: safetensors, strict in both directions, never pickle."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from model.config import CheckpointError
from model.families import FAMILIES, read_config, read_json, to_hf_config
from model.families.family import Family
from model.layers.linear import Linear
from model.transformer import Transformer

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"


def load_model(
    folder: Path, dtype: torch.dtype | None = None, device: torch.device | str = "cpu"
) -> Transformer:
    """The Transformer that `folder` holds, in `dtype` (None: as stored), in eval mode.

    Raises CheckpointError for a missing or left-over weight, a wrong shape or an unreadable file.
    """
    config = read_config(folder)
    family = FAMILIES[config.family]
    with torch.device("meta"):
        model = Transformer(config)
    wanted = _wanted(model, family)
    left_over = []
    copies: list[tuple[str, Tensor]] = []
    for file, name, tensor in _tensors(folder, device):
        ours = _match(name, wanted, family)
        kept = tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
        if ours is not None:
            _place(model, ours, kept, f"{file}: {name}")
        elif re.fullmatch(family.copies, name):
            copies.append((f"{file}: {name}", kept))
        elif not re.fullmatch(family.harmless, name):
            left_over.append(name)
    _settle_copies(model, copies)
    for theirs, ours in wanted.items():
        empty = model.get_parameter(ours[0])
        if empty.is_meta and re.fullmatch(family.zero_if_missing, theirs):
            like = model.embeddings.words.weight
            _place(model, ours, torch.zeros(empty.shape, dtype=like.dtype, device=device), theirs)
    missing = [theirs for theirs, ours in wanted.items() if model.get_parameter(ours[0]).is_meta]
    if missing or left_over:
        parts = [f"missing {missing[0]}" + _others(missing)] if missing else []
        parts += [f"left over {left_over[0]}" + _others(left_over)] if left_over else []
        raise CheckpointError(f"{folder}: weights do not fit the config: {'; '.join(parts)}")
    return model.to(device).eval().requires_grad_(False)  # computed tables move, weights are there


def save_model(model: Transformer, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Writes `config.json` and `model.safetensors` as `transformers` reads them; `folder` is made."""
    config = model.config
    family = FAMILIES[config.family]
    tensors: dict[str, Tensor] = {}
    for theirs, ours in _wanted(model, family).items():
        value = torch.cat([model.get_parameter(name).detach() for name in ours])
        tensors[theirs] = value.to("cpu", dtype or value.dtype)
    if config.head == "none":
        tensors = {name.removeprefix(family.base_prefix): value for name, value in tensors.items()}
    folder.mkdir(parents=True, exist_ok=True)
    stored = next(iter(tensors.values())).dtype
    raw = to_hf_config(config) | {"dtype": str(stored).removeprefix("torch.")}
    (folder / "config.json").write_text(json.dumps(raw, indent=2, ensure_ascii=False) + "\n")
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def _wanted(model: Transformer, family: Family) -> dict[str, list[str]]:
    """By published name, the parameters that such a tensor holds; adapters are not the checkpoint's."""
    wanted: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        if ".adapters." not in name:
            wanted.setdefault(family.published_name(name, model.config), []).append(name)
    return wanted


def _tensors(folder: Path, device: torch.device | str) -> Iterator[tuple[Path, str, Tensor]]:
    """Every stored tensor with its file, one at a time, memory-mapped."""
    for file in _files(folder):
        try:
            with safe_open(file, framework="pt", device=str(device)) as opened:
                for name in opened.keys():  # noqa: SIM118 - not a mapping
                    yield file, name, opened.get_tensor(name)
        except (SafetensorError, OSError) as fault:
            raise CheckpointError(f"{file}: {fault}") from None


def _files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, single or sharded."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    if (folder / INDEX).is_file():
        names = sorted(set(read_json(folder / INDEX).get("weight_map", {}).values()))
        if any(Path(name).name != name for name in names):
            raise CheckpointError(f"{folder / INDEX}: a shard's name is not a plain file name")
        return [folder / name for name in names]
    if any(folder.glob("*.bin")):
        raise CheckpointError(
            f"{folder}: only pickled weights (.bin), which can run code; convert them to {WEIGHTS}"
        )
    raise CheckpointError(f"{folder / WEIGHTS} is missing")


def _match(name: str, wanted: dict[str, list[str]], family: Family) -> list[str] | None:
    """Our names for a stored tensor; a bare model's names lack the family's prefix."""
    return wanted.get(name) or wanted.get(family.base_prefix + name)


def _settle_copies(model: Transformer, copies: list[tuple[str, Tensor]]) -> None:
    """What tensors that should equal the word table are: the table, where it was stored under no name of
    its own, nothing new, or an output table that the config wrongly calls tied."""
    for where, copy in sorted(copies, key=lambda entry: entry[0].endswith("lm_head.weight")):
        words = model.embeddings.words.weight
        if words.is_meta:
            _place(model, ["embeddings.words.weight"], copy, where)
        elif torch.equal(words, copy):
            continue
        elif where.endswith("lm_head.weight"):
            with torch.device("meta"):
                model.lm_head = Linear(model.config.hidden_size, model.config.vocab_size, bias=False)
            _place(model, ["lm_head.weight"], copy, where)
            model.config = replace(model.config, tie_embeddings=False)
        else:
            raise CheckpointError(f"{where}: differs from the word table that it should share")


def _place(model: nn.Module, names: list[str], value: Tensor, where: str) -> None:
    """Puts a real tensor, or its parts along dimension 0, where the meta ones were."""
    shapes = [model.get_parameter(name).shape for name in names]
    expected = [sum(shape[0] for shape in shapes), *shapes[0][1:]]
    if expected != list(value.shape):
        raise CheckpointError(f"{where}: shape {list(value.shape)}, but the config needs {expected}")
    for name, part in zip(names, torch.split(value, [shape[0] for shape in shapes]), strict=True):
        module_name, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(module_name), leaf, nn.Parameter(part, requires_grad=False))


def _others(names: list[str]) -> str:
    return f" and {len(names) - 1} more" if len(names) > 1 else ""


def stored_dtype(folder: Path) -> torch.dtype:
    """The dtype of the weights as stored; float32 where several are mixed."""
    kinds = set()
    for file in _files(folder):
        header = _header(file)
        kinds |= {entry["dtype"] for name, entry in header.items() if name != "__metadata__"}
    names = {"F16": torch.float16, "BF16": torch.bfloat16, "F64": torch.float64}
    return names.get(kinds.pop(), torch.float32) if len(kinds) == 1 else torch.float32


def _header(file: Path) -> dict[str, dict[str, str]]:
    """The JSON header of a safetensors file: an eight-byte length, then the object."""
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if length > 100_000_000:
                raise CheckpointError(f"{file}: header of {length} bytes")
            header: dict[str, dict[str, str]] = json.loads(opened.read(length))
    except (OSError, ValueError) as fault:
        raise CheckpointError(f"{file}: {fault}") from None
    return header
