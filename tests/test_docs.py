"""Pages that are written by code say what the code says now."""

from docs.families import PAGE, page, table
from model.families import FAMILIES
from model.stored import ADAPTER_CONFIG, ADAPTER_WEIGHTS, INDEX, WEIGHTS


def test_the_table_of_families_is_the_registry() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert page(text) == text, "python -m docs.families writes it anew"
    classes = [name for family in FAMILIES.values() for name in family.heads]
    assert table().count("\n| `") == len(classes)
    assert all(f"`{name}`" in text for name in (*classes, WEIGHTS, INDEX, ADAPTER_CONFIG, ADAPTER_WEIGHTS))
