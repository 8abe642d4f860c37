"""Which files hold a checkpoint's weights, and what their headers tell. Torch-free: no weight is read."""

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from model.config import CheckpointError
from model.families import read_json

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PICKLED = (".bin", ".pt", ".pth", ".ckpt")
FLOATS = ("F64", "F32", "F16", "BF16")
"""The dtypes that can be computed with, as safetensors spells them."""
MAX_HEADER = 100_000_000


@dataclass(frozen=True)
class StoredTensor:
    """One entry of a header; `dtype` as safetensors spells it."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def num_elements(self) -> int:
        """Numbers in it."""
        return prod(self.shape)


def weight_files(folder: Path) -> dict[Path, set[str]]:
    """The safetensors files of a folder, single or sharded, each with what the index expects in it.

    Raises CheckpointError where there are none, or the index names what is not there.
    """
    if (folder / WEIGHTS).is_file():
        return {folder / WEIGHTS: set()}
    if (folder / INDEX).is_file():
        return _shards(folder)
    if folder.is_dir() and any(file.suffix in PICKLED for file in folder.iterdir()):
        raise CheckpointError(
            f"{folder}: only pickled weights, and opening those can run code: where you trust them, load the folder"
            f" with transformers and write it again with save_pretrained(), which makes {WEIGHTS}"
        )
    if any(folder.glob("*.safetensors")):
        raise CheckpointError(f"{folder / INDEX} is missing, and so is {WEIGHTS}")
    raise CheckpointError(f"{folder / WEIGHTS} is missing")


def _shards(folder: Path) -> dict[Path, set[str]]:
    index = folder / INDEX
    names = read_json(index, unique_keys=True).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise CheckpointError(f"{index}: weight_map does not say which file holds which tensor")
    shards: dict[Path, set[str]] = {}
    for tensor, name in names.items():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise CheckpointError(f"{index}: the shard of {tensor} is not a plain file name: {name!r:.80}")
        shards.setdefault(folder / name, set()).add(tensor)
    for file, expected in shards.items():
        if not file.is_file():
            raise CheckpointError(f"{file} is missing, where {INDEX} has {min(expected)}")
    return dict(sorted(shards.items()))


def read_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Every stored tensor of a checkpoint by name. Raises CheckpointError that names file and fault."""
    tensors: dict[str, StoredTensor] = {}
    for file, expected in weight_files(folder).items():
        header = read_header(file)
        absent = sorted(expected.difference(header))
        if absent:
            raise CheckpointError(f"{file}: {absent[0]} is not in it, though {INDEX} says so")
        tensors |= header
    return tensors


def read_header(file: Path) -> dict[str, StoredTensor]:
    """The tensors of a safetensors file: an eight-byte length, a JSON object, then the data.

    Raises CheckpointError for a file that is none, or that is cut short.
    """
    try:
        size = file.stat().st_size
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if length > min(MAX_HEADER, size):
                raise CheckpointError(f"{file}: header of {length} bytes")
            header = json.loads(opened.read(length))
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing") from None
    except (OSError, ValueError, RecursionError) as fault:
        raise CheckpointError(f"{file}: {fault}") from None
    if not isinstance(header, dict):
        raise CheckpointError(f"{file}: its header is not a JSON object")
    tensors, end = {}, 8 + length
    for name, entry in header.items():
        if name != "__metadata__":
            tensors[name], data_end = _entry(entry, f"{file}: {name}")
            end = max(end, 8 + length + data_end)
    if end > size:
        raise CheckpointError(f"{file}: cut short: {size} bytes of {end}")
    return tensors


def _entry(entry: Any, where: str) -> tuple[StoredTensor, int]:
    """A tensor, and where its data end."""
    try:
        tensor = StoredTensor(str(entry["dtype"]), tuple(int(size) for size in entry["shape"]))
        return tensor, int(entry["data_offsets"][1])
    except (KeyError, IndexError, TypeError, ValueError):
        raise CheckpointError(f"{where} has no dtype, shape and place in the header") from None
