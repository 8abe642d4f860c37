"""Pages that are written by code say what the code says now, and name all that there is."""

from pathlib import Path

import pytest

from app.config import Settings
from app.tasks.served import WANTED_CHECKPOINT
from docs.families import BLOCKS, DOCS, PAGES, families, page, support
from model.families import FAMILIES
from model.stored import ADAPTER_CONFIG, ADAPTER_WEIGHTS, INDEX, WEIGHTS


def read(name: str) -> str:
    return (DOCS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize(("path", "block"), PAGES.items(), ids=lambda one: getattr(one, "name", one))
def test_a_table_that_is_written_is_what_the_code_says(path: Path, block: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert BLOCKS[block]() in text, "python -m docs.families writes it anew"
    assert page(text, block) == text


def test_the_table_of_families_is_the_registry() -> None:
    classes = [name for family in FAMILIES.values() for name in family.heads]
    assert families().count("\n| `") == len(classes)
    text = read("models.md")
    assert all(f"`{name}`" in text for name in (*classes, WEIGHTS, INDEX, ADAPTER_CONFIG, ADAPTER_WEIGHTS))


def test_each_task_has_a_row_and_a_section() -> None:
    text = read("tasks.md")
    for name, checkpoint in WANTED_CHECKPOINT.items():
        assert f"\n| {name} |" in support()
        assert f"\n## {name}\n" in text
        assert f"By {checkpoint}." in " ".join(text.split())


def test_each_setting_is_told_in_a_page_for_those_who_run_it() -> None:
    text = " ".join(read(name) for name in ("tuning.md", "operations.md", "models.md"))
    for name in set(Settings.model_fields) - {"models", "adapters", "default_models", "prompts"}:
        assert f"`{name}`" in text or f"--{name.replace('_', '-')}" in text, name
