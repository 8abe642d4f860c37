"""Cards are remade from stored files; what was written by hand stays."""

import json
from pathlib import Path

import pytest

from model.config import CheckpointError
from model.training.cards import write_card

MEASURE = {"value": 95.123, "low": 94.0, "high": 96.0}
CARD = "# intent\n\nBy hand.\n\n<!-- scores -->\nold\n<!-- /scores -->\n\n{}**Limits.** Many.\n"
COST = "<!-- cost -->\n<!-- /cost -->\n\n"


def folder_with(path: Path, card: str, stage: dict[str, object], scores: dict[str, object]) -> Path:
    (path / "README.md").write_text(card, encoding="utf-8")
    (path / "stage.json").write_text(json.dumps(stage))
    (path / "scores.json").write_text(json.dumps(scores))
    return path / "README.md"


def test_the_marked_parts_are_remade_and_nothing_else(tmp_path: Path) -> None:
    calibration = {"temperature": 1.25, "bias": 3.5, "ece_before": 6.0, "ece_after": 1.5}
    card = folder_with(
        tmp_path,
        CARD.format(COST),
        {"processor_minutes": 30.0, "calibration": calibration},
        {"clinc150 test": {"examples": 5500, "accuracy": MEASURE}},
    )
    write_card(tmp_path)
    text = card.read_text(encoding="utf-8")
    assert "old" not in text
    assert "| clinc150 test | 5500 | accuracy | 95.12 | 94.00 to 96.00 |" in text
    assert "temperature 1.250" in text
    assert "then 3.5 was added" in text
    assert "30 minutes of processor time" in text
    assert "5.0 Wh" in text
    assert text.startswith("# intent\n\nBy hand.\n\n<!-- scores -->\n\nMeasured")
    assert text.endswith("<!-- /cost -->\n\n**Limits.** Many.\n")
    write_card(tmp_path)
    assert card.read_text(encoding="utf-8") == text


def test_translations_tell_how_they_were_made(tmp_path: Path) -> None:
    test = {"examples": 2, "num_beams": 1, "bleu": MEASURE, "signature": "tok:zh"}
    card = folder_with(tmp_path, CARD.format(COST), {"processor_minutes": 3.0}, {"tico19-test en-zh": test})
    write_card(tmp_path)
    assert "Translations are greedy; BLEU is sacrebleu's (`tok:zh`)" in card.read_text(encoding="utf-8")


def test_a_card_without_a_place_for_them_is_refused(tmp_path: Path) -> None:
    folder_with(tmp_path, CARD.format(""), {"processor_minutes": 3.0}, {})
    with pytest.raises(CheckpointError, match="cost"):
        write_card(tmp_path)


def test_a_folder_without_a_card_gets_none(tmp_path: Path) -> None:
    write_card(tmp_path)
    assert not list(tmp_path.iterdir())
