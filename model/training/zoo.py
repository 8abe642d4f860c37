"""Makes the embedded default models: every stage in order, then the export in float16, then the scores and cards."""

import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from model.training.base import import_base, published_folder
from model.training.calibrated import calibrate
from model.training.cards import SCORES, write_card
from model.training.checkpoint import AtomicFolder, write_json
from model.training.evaluate import STAGE, evaluate
from model.training.recipes import RECIPES, ZOO_FOLDERS, ZOO_ORDER
from model.training.shrunk import shrink_adapter
from model.training.stages import read_result, result_folder, run_stage

BASE = "minilm"


def build_zoo(data: Path, runs: Path, zoo: Path) -> None:
    """Run what is not done yet, in order. Stages keep their folders under `runs`; a stage that was killed
    goes on from its last checkpoint, one that has its `result.json` is not run again."""
    if not (zoo / BASE / "model.safetensors").exists():
        import_base(published_folder(), zoo / BASE)
    for name in ZOO_ORDER:
        recipe = RECIPES[name]
        if read_result(runs / name):
            continue
        init = None
        if recipe.start is not None:
            init = zoo / BASE if recipe.start == BASE else result_folder(runs / recipe.start)
        adapter = None if recipe.adapter_start is None else result_folder(runs / recipe.adapter_start)
        run_stage(recipe, data, runs / name, init, adapter_from=adapter)
    for name, folder in ZOO_FOLDERS.items():
        recipe = RECIPES[name]
        export(runs / name, zoo / folder)
        base = None if recipe.lora is None else zoo / BASE
        if recipe.lora is not None and recipe.lora.shipped_rank is not None:
            shrink_adapter(name, zoo / folder, zoo / BASE, recipe.lora.shipped_rank)
        if base is not None and recipe.objective in ("classification", "extractive-qa"):
            calibrate(recipe, data, zoo / folder, base)
        write_json(zoo / folder / SCORES, evaluate(recipe, data, zoo / folder, base))
        write_card(zoo / folder)


def export(run: Path, target: Path) -> None:
    """The finished stage in `run` as a folder to serve, its weights in float16.

    What the stage told of itself goes along; a card (`README.md`) that is in the target stays.
    """
    source = result_folder(run)
    card = target / "README.md"
    with AtomicFolder(target) as folder:
        for path in sorted(source.iterdir()):
            if path.suffix == ".safetensors":
                tensors = {name: value.to(torch.float16) for name, value in load_file(path).items()}
                save_file(tensors, folder / path.name, metadata={"format": "pt"})
                (folder / path.name).chmod(0o644)
            elif path.name == "config.json" and (source / "model.safetensors").exists():
                config = json.loads(path.read_text(encoding="utf-8"))
                write_json(folder / path.name, config | {"dtype": "float16"})
            else:
                shutil.copyfile(path, folder / path.name)
        for name, stored in (("loss.png", "loss.png"), ("result.json", STAGE)):
            if (run / name).exists():
                shutil.copyfile(run / name, folder / stored)
        if card.exists():
            shutil.copyfile(card, folder / card.name)
