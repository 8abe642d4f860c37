"""What administrators may do, and what even they may not."""

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
        ("a b", None, None, "name"),
        ("../x", None, None, "name"),
    ):
        with pytest.raises(InvalidRequest) as refused:
            shelf.find(name, base, path)
        assert refused.value.param == param


@pytest.fixture
def governed(start: Callable[..., Service], root: Path, tmp_path: Path) -> Service:
    """Its registry notes what it is asked to load."""
    (tmp_path / "keys").write_text(line("root", "admin") + line("app", "infer"))
    shelf = Shelf({"team/mine": Adapter("writer", root)}, root)
    return start(guard=Guard(KeyRing(tmp_path / "keys")), shelf=shelf)


def test_the_trace_is_for_administrators(governed: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    async def trace(steps: int) -> dict[str, Any]:
        if steps < 1:
            raise InvalidRequest("steps must be at least 1", "steps")
        return {"traceEvents": [{"name": "step", "args": {"steps": steps}}]}

    monkeypatch.setattr(governed.registry, "trace", trace, raising=False)
    answer = governed.client.get("/admin/trace?steps=3", headers=bearer("root"))
    assert answer.json()["traceEvents"][0]["args"] == {"steps": 3}
    assert governed.client.get("/admin/trace?steps=3", headers=bearer("app")).status_code == 403
    for steps in ("0", "x", "", "1.5", "9" * 5000):
        refused = governed.client.get(f"/admin/trace?steps={steps}", headers=bearer("root"))
        assert (refused.status_code, fault(refused)["param"]) == (400, "steps")


def test_adapters_are_loaded_and_unloaded(
    governed: Service, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[Any, ...]] = []

    async def load_adapter(name: str, base: str, folder: Path) -> None:
        asked.append((name, base, folder))
        governed.registry.served[name] = governed.registry.served[base]

    async def unload(name: str) -> None:
        asked.append((name,))
        del governed.registry.served[name]

    monkeypatch.setattr(governed.registry, "load_adapter", load_adapter, raising=False)
    monkeypatch.setattr(governed.registry, "unload", unload, raising=False)

    def post(path: str, body: Any = None) -> Any:
        return governed.client.post(f"/admin/models/{path}", json=body, headers=bearer("root"))

    assert post("new/load", {"base": "writer", "path": "link"}).json()["id"] == "new"
    assert post("team/mine/load").json()["id"] == "team/mine"
    assert governed.client.post("/admin/models/team/mine/unload", headers=bearer("root")).json() == {
        "id": "team/mine",
        "object": "model",
        "deleted": True,
    }
    assert asked == [
        ("new", "writer", root.resolve() / "team" / "one"),
        ("team/mine", "writer", root),
        ("team/mine",),
    ]
    for path, body, param in (
        ("new/load", {"base": "writer", "path": "out"}, "path"),
        ("new/load", {"base": "writer", "path": 5}, "path"),
        ("new/load", {"base": "writer", "adapter": "x"}, "adapter"),
        ("new/load", {"path": "link"}, "base"),
        ("n%20w/load", {"base": "writer", "path": "link"}, "name"),
    ):
        refused = post(path, body)
        assert (refused.status_code, fault(refused)["param"]) == (400, param)
    assert post("unknown/load").status_code == 404
    assert len(asked) == 3
