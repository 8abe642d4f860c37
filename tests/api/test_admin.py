"""What administrators may do, and what even they may not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.api.guard import Guard
from app.api.shelf import Adapter, Shelf
from app.errors import InvalidRequest, ModelNotFound
from app.security import KeyRing
from tests.api.conftest import Service
from tests.api.test_errors import fault
from tests.api.test_keys import bearer, line


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with an adapter, a link to it, a link out of the root and a circle of links."""
    path = tmp_path / "root"
    (path / "team" / "one").mkdir(parents=True)
    (path / "file").touch()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "root-not").mkdir()
    (path / "link").symlink_to(path / "team" / "one")
    (path / "out").symlink_to(tmp_path / "elsewhere")
    (path / "circle").symlink_to(path / "circle")
    return path


def test_folders_below_the_root_are_found_links_resolved(root: Path) -> None:
    shelf = Shelf(root=root)
    one = root.resolve() / "team" / "one"
    for path in ("team/one", "link", str(one), "team/../team/one"):
        assert shelf.find("x", "base", path) == Adapter("base", one)
    (root.parent / "other").symlink_to(root)
    assert Shelf(root=root.parent / "other").find("x", "base", "link") == Adapter("base", one)


@pytest.mark.parametrize(
    "path",
    ["out", "..", "../elsewhere", "/", "/etc", "file", "nothing", "circle", "a\0b", "x" * 5000, "../root-not",
     "~", "team/one/../../../elsewhere"],
)  # fmt: skip
def test_all_other_folders_are_refused_in_the_same_words(root: Path, path: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Shelf(root=root).find("x", "base", path)
    assert (refused.value.param, refused.value.message) == ("path", "must be a folder below --model-root")


def test_names_are_those_of_the_settings(root: Path) -> None:
    shelf = Shelf({"mine": Adapter("base", root)})
    assert shelf.find("mine", None, None) == Adapter("base", root)
    with pytest.raises(ModelNotFound, match="mine"):
        shelf.find("other", None, None)
    for name, base, path, param in (
        ("x", "base", None, "path"),
        ("x", None, "team", "base"),
        ("x", "base", "team", "path"),
    ):
        with pytest.raises(InvalidRequest) as refused:
            shelf.find(name, base, path)
        assert refused.value.param == param


@pytest.fixture
def governed(start: Callable[..., Service], root: Path, tmp_path: Path) -> Service:
    """With an adapter below the root, which the settings call mine."""
    settings = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj"],
        "task_type": "CAUSAL_LM",
    }
    (root / "team" / "one" / "adapter_config.json").write_text(json.dumps(settings))
    (tmp_path / "keys").write_text(line("root", "admin") + line("app", "infer"))
    shelf = Shelf({"mine": Adapter("writer", root / "link")}, root)
    return start(guard=Guard(KeyRing(tmp_path / "keys")), shelf=shelf)


def test_the_trace_is_for_administrators(governed: Service) -> None:
    for query in ("", "?steps=3"):
        assert "traceEvents" in governed.client.get(f"/admin/trace{query}", headers=bearer("root")).json()
    assert governed.client.get("/admin/trace", headers=bearer("app")).status_code == 403
    for steps in ("0", "-1", "x", "", "1.5", "9" * 5000):
        refused = governed.client.get(f"/admin/trace?steps={steps}", headers=bearer("root"))
        assert (refused.status_code, fault(refused)["param"]) == (400, "steps")


def test_adapters_are_loaded_and_unloaded(governed: Service, root: Path) -> None:
    def post(path: str, body: Any = None) -> Any:
        return governed.client.post(f"/admin/models/{path}", json=body, headers=bearer("root"))

    def asked() -> list[tuple[str, str, str]]:
        return [(one.name, one.base, one.path) for one in governed.engine.adapters]

    assert post("new/load", {"base": "writer", "path": "link"}).json()["base"] == "writer"
    assert post("mine/load").json()["id"] == "mine"
    one = str(root.resolve() / "team" / "one")
    assert asked() == [("new", "writer", one), ("mine", "writer", str(root / "link"))]
    prompt = {"prompt": "Hi", "max_tokens": 2, "model": "mine"}
    assert governed.post("/v1/generate", prompt, headers=bearer("app")).json()["model"] == "mine"
    assert post("mine/unload").json() == {"id": "mine", "object": "model", "deleted": True}
    assert governed.post("/v1/generate", prompt, headers=bearer("app")).status_code == 404
    assert asked() == [("new", "writer", one)]
    for path, body, status, param in (
        ("x/load", {"base": "writer", "path": "out"}, 400, "path"),
        ("x/load", {"base": "writer", "path": 5}, 400, "path"),
        ("x/load", {"base": "nobody", "path": "link"}, 404, "base"),
        ("x/load", {"base": "writer", "adapter": "x"}, 400, "adapter"),
        ("x/load", {"path": "link"}, 400, "base"),
        ("x/load", None, 404, "name"),
        ("x%20y/load", {"base": "writer", "path": "link"}, 400, "name"),
        ("new/load", {"base": "writer", "path": "link"}, 400, "name"),
        ("writer/unload", None, 400, "name"),
        ("x/unload", None, 404, "model"),
    ):
        refused = post(path, body)
        assert (refused.status_code, fault(refused)["param"]) == (status, param), path
    assert asked() == [("new", "writer", one)]
