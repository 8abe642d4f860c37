"""Serving straight from the hub: downloaded, then loaded and answered with like any folder."""

from pathlib import Path

import pytest

from tests.e2e.conftest import Process
from tests.hub.server import Repository, running_hub


def test_a_repository_is_served_under_a_name(
    checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = checkpoints["mood"]
    files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    with running_hub() as hub:
        hub.repositories["org/mood"] = Repository({"v2": files})
        cache = tmp_path / "cache"
        for name in ("HF_HOME", "TRITON_CACHE_DIR"):
            monkeypatch.delenv(name, raising=False)
        for name, value in (
            ("HF_ENDPOINT", hub.url),
            ("QUARTET_CACHE_DIR", str(cache)),
            ("HF_HUB_OFFLINE", "0"),
        ):
            monkeypatch.setenv(name, value)
        process = Process("--model", "mine=org/mood@v2")
        answer = process.client.post("/v1/classify", json={"text": "What a day", "model": "mine"})
        assert answer.status_code == 200, answer.text
        assert {one["label"] for one in answer.json()["results"][0]} == {"bad", "fair", "good"}
        assert list((cache / "huggingface" / "hub").glob("models--*mood"))
        assert process.worker().environ()["TRITON_CACHE_DIR"] == str(cache / "triton")
        assert process.stop() == 0
