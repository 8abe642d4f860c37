"""The last step of a classifier and of an answer finder: exported weights are calibrated on the development rows."""

from pathlib import Path
from typing import Any

import torch

from model.adapters import load_adapter, save_adapter
from model.config import CheckpointError
from model.families import read_json
from model.loading import load_model
from model.tokenization import Tokenizer
from model.training.calibration import (
    calibration_error,
    find_bias,
    find_temperature,
    fold_bias,
    fold_temperature,
)
from model.training.checkpoint import write_json
from model.training.config import Recipe
from model.training.data import OUT_OF_SCOPE
from model.training.evaluate import STAGE
from model.training.no_answer import calibrate_no_answer
from model.training.objectives import classification


def calibrate(recipe: Recipe, data: Path, folder: Path, base: Path) -> dict[str, float]:
    """Calibrates the adapter in `folder` and notes how in its `stage.json`; what was found.

    Of a classifier a temperature goes into the head and, with the recipe's option `most_lost`, a bias of the class
    `oos`; of an answer finder the value of having no answer goes into `config.json`. Raises CheckpointError for an
    adapter that is calibrated already.
    """
    file = folder / STAGE
    stage: dict[str, Any] = read_json(file) if file.exists() else {"recipe": recipe.name}
    if "calibration" in stage:
        raise CheckpointError(f"{folder} is calibrated already")
    if recipe.objective == "extractive-qa":
        told = calibrate_no_answer(recipe, data, folder, base)
    else:
        told = _calibrate_labels(recipe, data, folder, base)
    write_json(file, {**stage, "calibration": told})
    return told


def _calibrate_labels(recipe: Recipe, data: Path, folder: Path, base: Path) -> dict[str, float]:
    model, name = load_model(base, torch.float32), recipe.name
    config = load_adapter(model, name, folder)
    objective = classification(recipe, Tokenizer.from_folder(base), config, data, name, name)
    logits, expected = objective.development(model)
    temperature = find_temperature(logits, expected)
    fold_temperature(model, name, temperature)
    told = {
        "temperature": temperature,
        "ece_before": 100.0 * calibration_error(logits, expected),
        "ece_after": 100.0 * calibration_error(logits / temperature, expected),
    }
    if "most_lost" in recipe.options:
        label = config.labels.index(OUT_OF_SCOPE)
        told["bias"] = find_bias(logits / temperature, expected, label, float(recipe.options["most_lost"]))
        fold_bias(model, name, label, told["bias"])
    save_adapter(model, name, config, folder, base.name, torch.float16)
    return told
