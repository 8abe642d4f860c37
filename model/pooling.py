"""How a checkpoint makes one vector of hidden states, and what it puts before texts, as sentence-transformers publishes
it. Torch-free."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from model.config import CheckpointError
from model.families import read_json

Mode = Literal["mean", "cls", "last"]


@dataclass(frozen=True)
class Pooling:
    """`mean` over all tokens, or the first or last one; then, maybe, scaled to length 1."""

    mode: Mode = "mean"
    normalize: bool = False


def read_pooling(folder: Path) -> Pooling:
    """From `1_Pooling/config.json` and `modules.json`; the mean where nothing is published."""
    file = folder / "1_Pooling" / "config.json"
    if not file.is_file():
        return Pooling()
    raw = read_json(file)
    modes: dict[str, Mode] = {
        "pooling_mode_mean_tokens": "mean",
        "pooling_mode_cls_token": "cls",
        "pooling_mode_lasttoken": "last",
    }
    chosen = [mode for key, mode in modes.items() if raw.get(key)]
    if len(chosen) != 1:
        raise CheckpointError(f"{file}: exactly one of {', '.join(modes)} can be served")
    modules = folder / "modules.json"
    return Pooling(chosen[0], modules.is_file() and "Normalize" in modules.read_text(encoding="utf-8"))


def read_prompts(folder: Path) -> dict[str, str]:
    """The words that go before texts, by name, from `config_sentence_transformers.json`; {} where there are none."""
    file = folder / "config_sentence_transformers.json"
    published = read_json(file).get("prompts") if file.is_file() else None
    if not isinstance(published, dict):
        return {}
    return {str(name): text for name, text in published.items() if isinstance(text, str)}
