"""What administrators may do, and what even they may not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from app.api.guard import Guard
from app.api.shelf import Shelf
from app.errors import InvalidRequest
from app.security import KeyRing
from app.sources import Source, Sources
from tests.api.conftest import Service
from tests.api.folders import CONFIGS, write_folder
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
        assert shelf.folder(path) == one
    (root.parent / "other").symlink_to(root)
    assert Shelf(root=root.parent / "other").folder("link") == one


@pytest.mark.parametrize(
    "path",
    ["out", "..", "../elsewhere", "/", "/etc", "file", "nothing", "circle", "a\0b", "x" * 5000, "../root-not",
     "~", "team/one/../../../elsewhere"],
)  # fmt: skip
def test_all_other_folders_are_refused_in_the_same_words(root: Path, path: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        Shelf(root=root).folder(path)
    assert (refused.value.param, refused.value.message) == ("path", "must be a folder below --model-root")


def test_without_a_root_no_folder_may_be_named() -> None:
    with pytest.raises(InvalidRequest, match="--model-root"):
        Shelf().folder("team/one")


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
    write_folder(root / "books", CONFIGS["writer"])
    write_folder(root / "moods", CONFIGS["mood"])
    named = {
        "mine": Source(root / "link", "writer"),
        "writer": Source(root / "books", weight=3.0),
        "assistant": Source(root / "books", tasks=("generate",)),
    }
    return start(
        guard=Guard(KeyRing(tmp_path / "keys")),
        shelf=Shelf(root),
        sources=Sources(named),
        defaults={"generate": "writer"},
    )


def post(governed: Service, path: str, body: Any = None) -> Any:
    return governed.client.post(f"/admin/models/{path}", json=body, headers=bearer("root"))


def asked(governed: Service, path: str, **body: Any) -> Any:
    """An answer to somebody who is no administrator."""
    return governed.post(path, body, headers=bearer("app"))


def test_the_trace_is_for_administrators(governed: Service) -> None:
    for query in ("", "?steps=3"):
        assert "traceEvents" in governed.client.get(f"/admin/trace{query}", headers=bearer("root")).json()
    assert governed.client.get("/admin/trace", headers=bearer("app")).status_code == 403
    for steps in ("0", "-1", "x", "", "1.5", "9" * 5000):
        refused = governed.client.get(f"/admin/trace?steps={steps}", headers=bearer("root"))
        assert (refused.status_code, fault(refused)["param"]) == (400, "steps")


def test_adapters_are_loaded_and_unloaded(governed: Service, root: Path) -> None:
    def there() -> list[tuple[str, str]]:
        return [(one.name, one.path) for one in governed.engine.loaded]

    assert post(governed, "new/load", {"base": "writer", "path": "link"}).json()["base"] == "writer"
    assert post(governed, "mine/load").json()["id"] == "mine"
    one = str(root.resolve() / "team" / "one")
    assert there() == [("new:1", one), ("mine:2", str(root / "link"))]
    prompt = {"prompt": "Hi", "max_tokens": 2, "model": "mine"}
    assert asked(governed, "/v1/generate", **prompt).json()["model"] == "mine"
    assert post(governed, "mine/unload").json() == {"id": "mine", "object": "model", "deleted": True}
    assert asked(governed, "/v1/generate", **prompt).status_code == 404
    assert there() == [("new:1", one)]


@pytest.mark.parametrize(
    ("path", "body", "status", "param"),
    [
        ("x/load", {"base": "writer", "path": "out"}, 400, "path"),
        ("x/load", {"base": "writer", "path": 5}, 400, "path"),
        ("x/load", {"base": "nobody", "path": "link"}, 404, "base"),
        ("x/load", {"base": "writer", "adapter": "x"}, 400, "adapter"),
        ("x/load", {"base": "writer"}, 400, "path"),
        ("x/load", {"path": "link"}, 400, "path"),
        ("x/load", {"path": "books", "weight": 0}, 400, "weight"),
        ("x/load", {"path": "books", "weight": 1001}, 400, "weight"),
        ("x/load", {"path": "books", "weight": "1"}, 400, "weight"),
        ("x/load", None, 404, "name"),
        ("x%20y/load", {"base": "writer", "path": "link"}, 400, "name"),
        ("x:1/load", {"path": "books"}, 400, "name"),
        ("mood/load", {"base": "writer", "path": "link"}, 400, "name"),
        ("mood/load", None, 404, "name"),
        ("assistant/load", {"path": "moods"}, 400, "path"),
        ("x/unload", None, 404, "model"),
    ],
    ids=str,
)
def test_what_cannot_be_done_names_its_field_and_changes_nothing(
    governed: Service, path: str, body: Any, status: int, param: str
) -> None:
    before = governed.registry.info()
    refused = post(governed, path, body)
    assert (refused.status_code, fault(refused)["param"]) == (status, param)
    assert governed.engine.loaded == []
    assert governed.registry.info() == before
