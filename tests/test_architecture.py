"""Holds the tree to docs/architecture.md; the last tests seed violations and expect them found."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.architecture_rules import (
    LONGER_FILES,
    MAX_LINES,
    RULES,
    TORCH_FREE,
    Tree,
    config_importers,
    environment_reads,
    file_faults,
    forbidden_packages,
    import_cycles,
    is_under,
    torch_reached,
    wrong_imports,
)

ROOT = Path(__file__).resolve().parent.parent
ZOO_BYTES = 90 * 1000 * 1000


@pytest.fixture(scope="module")
def tree() -> Tree:
    return Tree.read(ROOT)


@pytest.mark.parametrize("rule", RULES)
def test_tree_keeps(rule: Callable[[Tree], list[str]], tree: Tree) -> None:
    assert rule(tree) == []


def test_files_are_short_well_named_and_our_own() -> None:
    paths = [
        path
        for part in ("app", "model", "tests", "benchmarks", "deploy")
        for path in ROOT.glob(f"{part}/**/*.py")
    ]
    files = {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}
    assert file_faults(files) == []
    assert set(LONGER_FILES) <= set(files)


def test_zoo_fits_its_budget() -> None:
    assert sum(path.stat().st_size for path in (ROOT / "model/zoo").rglob("*") if path.is_file()) <= ZOO_BYTES


def test_torch_free_modules_really_import_without_torch(tree: Tree) -> None:
    modules = sorted(module for module in tree.sources if is_under(module, *TORCH_FREE))
    code = (
        "import importlib, sys\n"
        f"for name in {modules!r}: importlib.import_module(name)\n"
        "print([name for name in ('torch', 'transformers', 'app.engine.worker') if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


SEEDED = [
    (wrong_imports, {"app.tasks.qa": "from app.api import deps", "app.api": "", "app.api.deps": ""}),
    (wrong_imports, {"model.heads": "def f():\n    import app.errors", "app.errors": ""}),
    (wrong_imports, {"model.loading": "import model.training.data", "model.training.data": ""}),
    (wrong_imports, {"app.engine.engine": "from app.engine import client", "app.engine.client": ""}),
    (wrong_imports, {"app.api.deps": "from app.engine import protocol", "app.engine.protocol": ""}),
    (wrong_imports, {"app.engine.scheduler": "from .batch import Batch", "app.engine.batch": ""}),
    (wrong_imports, {"app.main": "import app.missing"}),
    (forbidden_packages, {"app.tasks.base": "from fastapi import Request"}),
    (forbidden_packages, {"model.loading": "if TYPE_CHECKING:\n    import transformers.models"}),
    (forbidden_packages, {"app.engine.engine": "import asyncio"}),
    (torch_reached, {"app.engine.protocol": "def f():\n    import torch"}),
    (
        torch_reached,
        {"app.registry": "import model.families", "model": "import torch.nn", "model.families": ""},
    ),
    (import_cycles, {"app.logs": "import app.errors", "app.errors": "def f():\n    from app import logs"}),
    (environment_reads, {"app.cli": "import os\nx = os.environ.get('A')"}),
    (environment_reads, {"model.hub": "from os import getenv"}),
    (config_importers, {"app.tasks.base": "from app.config import Settings", "app.config": ""}),
]


@pytest.mark.parametrize(("rule", "sources"), SEEDED)
def test_seeded_violation_is_found(rule: Callable[[Tree], list[str]], sources: dict[str, str]) -> None:
    assert len(rule(Tree(sources, frozenset()))) >= 1


def test_seeded_file_faults_are_found() -> None:
    assert (
        len(file_faults({"app/utils.py": "", "a.py": "\n" * (MAX_LINES + 1), "b.py": "# Copyright 2020 X"}))
        == 3
    )


def test_dynamic_imports_count() -> None:
    tree = Tree({"app.tasks.base": "importlib.import_module('fastapi')"}, frozenset())
    assert forbidden_packages(tree) == ["app.tasks.base imports fastapi"]
