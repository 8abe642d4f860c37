"""Checkpoint folders: what is read, what is refused, and that the message names the fault."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model.config import CheckpointError, TransformerConfig
from model.families import read_config
from model.loading import load_model, save_model, stored_dtype
from model.pooling import Pooling, read_pooling
from tests.tiny import BERT, LLAMA, T5, random_model

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_model(random_model(LLAMA, dtype=torch.float32), tmp_path / "llama")
    return tmp_path / "llama"


@pytest.mark.parametrize("config", [LLAMA, T5, BERT], ids=lambda c: c.family)
def test_what_is_saved_is_loaded_again(config: TransformerConfig, tmp_path: Path) -> None:
    model = random_model(config)
    save_model(model, tmp_path)
    again = load_model(tmp_path)
    assert read_config(tmp_path) == again.config
    for (name, ours), (other, theirs) in zip(model.named_parameters(), again.named_parameters(), strict=True):
        assert name == other
        assert torch.equal(ours, theirs)


def test_dtype_is_as_stored_unless_asked_for(folder: Path, tmp_path: Path) -> None:
    save_model(load_model(folder), tmp_path / "half", torch.float16)
    assert stored_dtype(tmp_path / "half") is torch.float16
    assert next(load_model(tmp_path / "half").parameters()).dtype is torch.float16
    assert next(load_model(tmp_path / "half", torch.float32).parameters()).dtype is torch.float32


def test_shards_are_read_through_their_index(folder: Path) -> None:
    expected = load_model(folder).embeddings.words.weight
    tensors = load_file(folder / WEIGHTS)
    names = sorted(tensors)
    index: dict[str, str] = {}
    for number, part in enumerate((names[::2], names[1::2])):
        file = f"model-0000{number}-of-00002.safetensors"
        save_file({name: tensors[name] for name in part}, folder / file)
        index |= dict.fromkeys(part, file)
    (folder / WEIGHTS).unlink()
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"weight_map": index}))
    assert torch.equal(load_model(folder).embeddings.words.weight, expected)


def _drop(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors["model.norm.weight"]
    save_file(tensors, folder / WEIGHTS)


def _add(folder: Path) -> None:
    save_file(load_file(folder / WEIGHTS) | {"surplus.weight": torch.zeros(1)}, folder / WEIGHTS)


def _reshape(folder: Path) -> None:
    save_file(load_file(folder / WEIGHTS) | {"model.norm.weight": torch.zeros(3)}, folder / WEIGHTS)


def _cut(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[: len(data) // 2])


def _pickled(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


def _escape(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    index = {"weight_map": {"model.norm.weight": "../../secret.safetensors"}}
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))


def _config(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "config.json"
        raw = json.loads(file.read_text()) | changes
        file.write_text(json.dumps({key: value for key, value in raw.items() if value != "gone"}))

    return change


def _bad_json(folder: Path) -> None:
    (folder / "config.json").write_text("{")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (_drop, "missing model.norm.weight"),
        (_add, "left over surplus.weight"),
        (_reshape, r"model\.norm\.weight: shape \[3\], but config.json needs \[32\]"),
        (_cut, WEIGHTS),
        (_pickled, "pickled weights"),
        (_escape, "not a plain file name"),
        (_bad_json, "config.json"),
        (_config(model_type="unheard-of"), "unknown model_type 'unheard-of'"),
        (_config(architectures=["LlamaForDreams"]), "unknown architecture 'LlamaForDreams'"),
        (_config(hidden_size="gone"), "'hidden_size' is missing"),
        (_config(hidden_act="sine"), "unknown activation 'sine'"),
        (_config(num_key_value_heads=3), "cannot share 3"),
        (_config(rope_parameters={"rope_type": "longrope"}), "rope scaling of kind 'longrope'"),
        (_config(num_hidden_layers=3), r"missing model\.layers\.2"),
        (_config(num_hidden_layers=1), r"left over model\.layers\.1"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_broken_folder_is_refused_in_one_line_that_names_the_fault(
    damage: Callable[[Path], None], message: str, folder: Path
) -> None:
    damage(folder)
    with pytest.raises(CheckpointError, match=message) as raised:
        load_model(folder)
    assert "\n" not in str(raised.value)


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"config\.json is missing"):
        load_model(tmp_path / "nowhere")


def test_pooling_is_read_as_sentence_transformers_publishes_it(tmp_path: Path) -> None:
    assert read_pooling(tmp_path) == Pooling("mean", False)
    (tmp_path / "1_Pooling").mkdir()
    file = tmp_path / "1_Pooling" / "config.json"
    file.write_text(json.dumps({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}))
    (tmp_path / "modules.json").write_text('[{"type": "sentence_transformers.models.Normalize"}]')
    assert read_pooling(tmp_path) == Pooling("cls", True)
    file.write_text(json.dumps({"pooling_mode_max_tokens": True}))
    with pytest.raises(CheckpointError, match="exactly one"):
        read_pooling(tmp_path)
