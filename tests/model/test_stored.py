"""Headers and indices: what they tell, and the faults that are named."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from model.config import CheckpointError
from model.stored import INDEX, StoredTensor, read_header, read_tensors, weight_files

FIRST, SECOND = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"


@pytest.fixture
def sharded(tmp_path: Path) -> Path:
    save_file({"a": torch.zeros(2, 3)}, tmp_path / FIRST, metadata={"format": "pt"})
    save_file({"b": torch.zeros(4, dtype=torch.bfloat16)}, tmp_path / SECOND)
    write_index(tmp_path, {"a": FIRST, "b": SECOND})
    return tmp_path


def write_index(folder: Path, names: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"weight_map": names}))


def test_shards_are_read_as_one(sharded: Path) -> None:
    assert weight_files(sharded) == {sharded / FIRST: {"a"}, sharded / SECOND: {"b"}}
    assert read_tensors(sharded) == {"a": StoredTensor("F32", (2, 3)), "b": StoredTensor("BF16", (4,))}
    assert sum(tensor.num_elements for tensor in read_tensors(sharded).values()) == 10


@pytest.mark.parametrize(
    ("names", "word"),
    [
        ({"a": FIRST, "b": FIRST}, "b is not in it"),
        ({"a": FIRST, "b": "model-00003-of-00002.safetensors"}, "00003-of-00002.safetensors is missing"),
        ({"a": "../" + FIRST}, "not a plain file name"),
        ({"a": "model.bin"}, "not a plain file name"),
        ({}, "weight_map"),
        (None, "weight_map"),
    ],
)
def test_an_index_that_misleads_is_refused(sharded: Path, names: Any, word: str) -> None:
    write_index(sharded, names)
    with pytest.raises(CheckpointError, match=word):
        read_tensors(sharded)


def test_a_folder_without_weights_is_refused(sharded: Path) -> None:
    (sharded / INDEX).unlink()
    with pytest.raises(CheckpointError, match=r"index\.json is missing"):
        weight_files(sharded)
    (sharded / FIRST).unlink()
    (sharded / SECOND).unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        weight_files(sharded)


@pytest.mark.parametrize(
    "header", [[], {"a": 1}, {"a": {"dtype": "F32", "shape": [2]}}, {"a": {"shape": "x"}}]
)
def test_a_header_of_another_shape_is_refused(tmp_path: Path, header: Any) -> None:
    text = json.dumps(header).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(len(text).to_bytes(8, "little") + text)
    with pytest.raises(CheckpointError, match="header"):
        read_header(file)
