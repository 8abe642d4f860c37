"""What is fetched from the hub, what is not, and how each failure is told; against a server of our own."""

import errno
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import constants

from app.commands.download import fetch
from app.errors import ConfigError
from model.config import CheckpointError
from model.hub import choose_files, download
from tests.hub.server import TOKEN, Hub, Repository, running_hub

WEIGHTS = bytes(range(256)) * 40
SMALL = {
    "config.json": b"{}",
    "generation_config.json": b"{}",
    "tokenizer.json": b"{} ",
    "tokenizer_config.json": b"{}  ",
    "chat_template.jinja": b"{{ messages }}",
    "modules.json": b"[]",
    "1_Pooling/config.json": b"{}   ",
}
UNWANTED = {
    "README.md": b"# A model",
    "pytorch_model.bin": b"pickle",
    "tf_model.h5": b"tf",
    "model.fp16.safetensors": b"another precision",
    "onnx/model.onnx": b"onnx",
    "onnx/model.safetensors": b"not this one",
    "original/config.json": b"{}",
    "modeling_own.py": b"import os",
}
SHARDS = {
    "model-00001-of-00002.safetensors": WEIGHTS,
    "model-00002-of-00002.safetensors": WEIGHTS[::-1],
    "model-00003-of-00002.safetensors": b"no part of it",
    "model.safetensors.index.json": json.dumps(
        {
            "weight_map": {
                "a": "model-00001-of-00002.safetensors",
                "b": "model-00002-of-00002.safetensors",
                "c": "../secret.safetensors",
            }
        }
    ).encode(),
}
PLAIN = SMALL | UNWANTED | {"model.safetensors": WEIGHTS}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    with running_hub() as running:
        yield running


def contents(folder: Path) -> dict[str, bytes]:
    """Of a folder, without what the library keeps beside it."""
    paths = [path for path in folder.rglob("*") if path.is_file() and ".cache" not in path.parts]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_only_what_serving_needs_is_fetched(hub: Hub, capsys: pytest.CaptureFixture[str]) -> None:
    hub.repositories["org/plain"] = Repository({"main": PLAIN})
    said: list[str] = []
    folder = download("org/plain", endpoint=hub.url, say=said.append)
    assert contents(folder) == SMALL | {"model.safetensors": WEIGHTS}
    assert said == ["org/plain: 8 files, 0.0 MB"]
    assert capsys.readouterr().err == ""  # bars are for terminals


def test_shards_are_those_of_the_index(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["org/large"] = Repository({"main": {"config.json": b"{}"} | SHARDS})
    wanted = {"config.json", *SHARDS} - {"model-00003-of-00002.safetensors"}
    assert set(contents(download("org/large", endpoint=hub.url))) == wanted
    assert set(contents(download("org/large", tmp_path / "to", endpoint=hub.url))) == wanted


def test_an_adapter_is_fetched_with_its_head(hub: Hub) -> None:
    adapter = {"adapter_config.json": b"{}", "adapter_model.safetensors": WEIGHTS, "config.json": b"{} "}
    hub.repositories["org/adapter"] = Repository({"main": adapter | {"adapter_model.bin": b"pickle"}})
    assert contents(download("org/adapter", endpoint=hub.url)) == adapter


def test_a_connection_that_breaks_off_is_taken_up_where_it_broke(
    hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 1024)
    hub.repositories["org/plain"] = Repository({"main": PLAIN})
    hub.cuts = 1
    assert contents(download("org/plain", endpoint=hub.url))["model.safetensors"] == WEIGHTS
    ranges = [request.range for request in hub.requests if request.is_store and request.method == "GET"]
    assert ranges == [None, f"bytes={len(WEIGHTS) // 2}-"]


def test_what_is_there_is_not_fetched_again(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["org/plain"] = Repository({"main": PLAIN})
    said: list[str] = []
    for to in (None, tmp_path / "to"):
        folder = download("org/plain", to, endpoint=hub.url)
        hub.requests.clear()
        assert download("org/plain", to, endpoint=hub.url, say=said.append) == folder
        assert hub.file_requests() == []
    assert said == []


def test_a_download_that_was_cut_short_is_completed(hub: Hub) -> None:
    hub.repositories["org/plain"] = Repository({"main": PLAIN})
    folder = download("org/plain", endpoint=hub.url)
    lost = folder / "tokenizer.json"
    lost.resolve().unlink()
    lost.unlink()
    hub.requests.clear()
    assert contents(download("org/plain", endpoint=hub.url))["tokenizer.json"] == SMALL["tokenizer.json"]
    assert len(hub.file_requests()) == 1


def test_a_revision_is_pinned_by_its_name_or_its_commit(hub: Hub) -> None:
    repository = Repository({"main": PLAIN, "v1": PLAIN | {"config.json": b'{"old": 1}'}})
    hub.repositories["org/plain"] = repository
    assert contents(download("org/plain@v1", endpoint=hub.url))["config.json"] == b'{"old": 1}'
    pinned = f"org/plain@{repository.commit('main')}"
    folder = download(pinned, endpoint=hub.url)
    assert contents(folder)["config.json"] == b"{}"
    hub.requests.clear()
    assert download(pinned, endpoint=hub.url) == folder
    assert hub.requests == []


def test_without_a_network_the_cache_answers(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["org/plain"] = Repository({"main": PLAIN})
    hub.repositories["org/large"] = Repository({"main": {"config.json": b"{}"} | SHARDS})
    folders = [download(name, endpoint=hub.url) for name in hub.repositories]
    said: list[str] = []
    nowhere = "http://127.0.0.1:1"
    assert [download(name, endpoint=nowhere, say=said.append) for name in hub.repositories] == folders
    with pytest.raises(CheckpointError, match="org/other: the hub cannot be reached"):
        download("org/other", endpoint=nowhere)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert [download(name, endpoint=hub.url, say=said.append) for name in hub.repositories] == folders
    assert len(said) == 4
    with pytest.raises(CheckpointError, match="org/other: not downloaded yet, and HF_HUB_OFFLINE"):
        download("org/other", endpoint=hub.url)
    (folders[0] / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE"):
        download("org/plain", endpoint=hub.url)


def test_the_token_goes_to_the_hub_and_not_to_its_store(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["org/gated"] = Repository({"main": PLAIN}, gated=True)
    hub.repositories["org/private"] = Repository({"main": PLAIN}, private=True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    for name in ("org/gated", "org/private"):
        assert contents(download(name, endpoint=hub.url))["model.safetensors"] == WEIGHTS
    assert {request.has_token for request in hub.requests if not request.is_store} == {True}
    assert {request.has_token for request in hub.requests if request.is_store} == {False}


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("org/none", "no such repository"),
        ("org/private", "HF_TOKEN"),
        ("org/gated", "access has to be asked for"),
        ("org/plain@v9", "no revision 'v9'"),
        ("org/pickled", "pytorch_model.bin is there, but no format that is read"),
        ("org/empty", "no model.safetensors"),
        ("org--x/plain", "--"),
    ],
)
def test_a_repository_that_gives_nothing_is_told_in_one_line(hub: Hub, name: str, word: str) -> None:
    hub.repositories = {
        "org/plain": Repository({"main": PLAIN}),
        "org/private": Repository({"main": PLAIN}, private=True),
        "org/gated": Repository({"main": PLAIN}, gated=True),
        "org/pickled": Repository({"main": SMALL | {"pytorch_model.bin": b"pickle"}}),
        "org/empty": Repository({"main": {"README.md": b""}}),
    }
    told = refusal(name, hub)
    assert told.startswith(f"{name}: ")
    assert word in told


def test_a_wrong_token_and_a_hub_in_trouble_are_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["org/plain"] = Repository({"main": PLAIN})
    hub.status = 503
    assert "the hub answered 503" in refusal("org/plain", hub)
    hub.status = None
    monkeypatch.setenv("HF_TOKEN", "hf_of_another")
    assert "does not take this token" in refusal("org/plain", hub)


def test_a_full_disk_is_told_before_and_while(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.repositories["org/plain"] = Repository({"main": PLAIN})
    with monkeypatch.context() as patched:
        patched.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=100))
        assert "needs 0.0 MB, and" in refusal("org/plain", hub)
        assert hub.file_requests() == []

    def fill_up(*args: Any, **kwargs: Any) -> str:
        raise OSError(errno.ENOSPC, "No space left on device", "/data/blob")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fill_up)
    assert "the disk is full: /data/blob" in refusal("org/plain", hub)


def test_without_the_extra_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ConfigError, match="pip install") as refused:
        fetch("org/plain")
    assert "\n" not in str(refused.value)


def test_a_broken_index_takes_no_shards() -> None:
    assert choose_files(["model.safetensors.index.json", "config.json"]) == [
        "model.safetensors.index.json",
        "config.json",
    ]


def refusal(name: str, hub: Hub) -> str:
    """The one line."""
    with pytest.raises(CheckpointError) as refused:
        download(name, endpoint=hub.url)
    assert "\n" not in str(refused.value)
    return str(refused.value)
