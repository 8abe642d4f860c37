"""A model is replaced, unloaded and loaded again on the real service, while it streams, and its engine is killed."""

import json
import shutil
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch

from model.loading import load_model, save_model
from tests.e2e.conftest import Process

LONG = {"model": "writer", "prompt": "Once", "max_tokens": 1500, "ignore_eos": True, "stream": True}


def generated(process: Process, model: str, count: int = 30) -> str:
    body = {"model": model, "prompt": "Once", "max_tokens": count, "ignore_eos": True}
    return str(process.client.post("/v1/generate", json=body).json()["results"][0]["text"])


def post(process: Process, path: str, body: Any = None) -> Any:
    answer = process.client.post(f"/admin/models/{path}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def write_next(folder: Path, root: Path) -> None:
    """The same model with other weights."""
    shutil.copytree(folder, root / "next")
    model = load_model(folder)
    torch.manual_seed(5)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.3)
    save_model(model, root / "next")


def test_new_weights_take_over_in_the_midst_of_a_stream_and_survive_the_engine(
    start: Callable[..., Process], checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    write_next(checkpoints["writer"], tmp_path)
    (tmp_path / "keys").write_text(f"root infer,admin,metrics {sha256(b'secret').hexdigest()}\n")
    process = start("--api-key-file", str(tmp_path / "keys"), "--model-root", str(tmp_path))
    process.client.headers["X-API-Key"] = "secret"
    old, whole = generated(process, "writer"), generated(process, "writer", 1500)
    with process.client.stream("POST", "/v1/generate", json=LONG) as response:
        lines = (line for line in response.iter_lines() if line.startswith("data: {"))
        said = [next(lines)]
        assert post(process, "writer/load", {"path": "next"})["id"] == "writer"
        new = generated(process, "writer")
        said += lines
    events = [json.loads(line.removeprefix("data: ")) for line in said]
    assert "".join(event["results"][0]["text"] for event in events) == whole
    assert new != old

    before = process.worker()
    before.kill()
    process.wait_until(lambda: process.client.get("/ready").status_code == 503)
    process.wait_until(lambda: process.client.get("/ready").status_code == 200)
    assert generated(process, "writer") == new
    assert post(process, "writer/unload")["deleted"] is True
    refused = process.client.post("/v1/generate", json={"model": "writer", "prompt": "Once"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")
    assert process.metric("quartet_requests_running", model="writer") == 0
    assert post(process, "writer/load")["id"] == "writer"
    assert generated(process, "writer") == old, "the settings' own"
    process.wait_until(lambda: process.metric("quartet_kv_cache_usage_ratio") == 0)
    assert process.stop() == 0
