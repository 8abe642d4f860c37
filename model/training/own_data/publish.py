"""The finished model as a folder to serve and to share, and the line that serves it."""

import re
import shlex
import shutil
from pathlib import Path

from model.adapters import save_adapter
from model.config import TransformerConfig
from model.loading import save_model
from model.training.checkpoint import AtomicFolder, flush
from model.training.own_data.learner import ADAPTER
from model.training.own_data.plan import WORK, Plan
from model.training.own_data.report import shown
from model.transformer import Transformer

_TAKEN_OVER = (
    *("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.txt"),
    *("vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "tokenizer.model"),
    *("generation_config.json", "chat_template.jinja"),
)
"""What the base's folder has of these is the new model's too."""


def save_weights(plan: Plan, model: Transformer, config: TransformerConfig, folder: Path) -> None:
    """Config and weights; with every weight trained, the tokenizer's files too: an adapter has its base's."""
    if plan.lora:
        save_adapter(model, ADAPTER, config, folder, plan.base)
    else:
        save_model(model, folder)
        for name in _TAKEN_OVER:
            if (Path(plan.base) / name).is_file():
                shutil.copyfile(Path(plan.base) / name, folder / name)
    for weights in folder.glob("*.safetensors"):
        weights.chmod(0o644)  # the library keeps them for their owner


def publish(files: Path, out: Path) -> None:
    """Moves files into `out`, `config.json` last: a folder without it is not taken for a model."""
    for path in sorted(files.iterdir(), key=lambda path: path.name == "config.json"):
        flush(path)
        path.replace(out / path.name)
    flush(out)


def staging(out: Path) -> AtomicFolder:
    """Where the files are made first."""
    return AtomicFolder(out / WORK / "model")


def serve_line(plan: Plan, out: Path) -> str:
    """The command that serves what is in `out`, from the folder that the command was given in."""
    name = _served_name(out)
    if not plan.lora:
        return f"quartet serve --model {shlex.quote(f'{name}={out}')}"
    base = Path(plan.base)
    below = _served_name(base)
    adapter = shlex.quote(f"{name}={below}:{out}")
    return f"quartet serve --model {shlex.quote(f'{below}={shown(base)}')} --adapter {adapter}"


def _served_name(folder: Path) -> str:
    """The folder's own name as far as the service takes it."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", folder.resolve().name).lstrip(".-_") or "model"
