"""The last step of a classifier's stage: its head is calibrated on the development rows."""

from model.config import TransformerConfig
from model.training.calibration import (
    calibration_error,
    find_bias,
    find_temperature,
    fold_bias,
    fold_temperature,
)
from model.training.config import Recipe
from model.training.data import OUT_OF_SCOPE
from model.training.finetune import Classification
from model.transformer import Transformer


def calibrate(
    recipe: Recipe, model: Transformer, config: TransformerConfig, objective: Classification, head: str
) -> dict[str, float]:
    """Folds a temperature into the head, and with the recipe's option `most_lost` a bias of the class `oos`.

    Returns both, and the calibration error in per cent of the development rows before and after.
    """
    logits, expected = objective.development(model)
    temperature = find_temperature(logits, expected)
    fold_temperature(model, head, temperature)
    told = {
        "temperature": temperature,
        "ece_before": 100.0 * calibration_error(logits, expected),
        "ece_after": 100.0 * calibration_error(logits / temperature, expected),
    }
    most_lost = recipe.options.get("most_lost")
    if most_lost is not None:
        label = config.labels.index(OUT_OF_SCOPE)
        told["bias"] = find_bias(logits / temperature, expected, label, float(most_lost))
        fold_bias(model, head, label, told["bias"])
    return told
