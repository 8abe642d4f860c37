"""An adapter that goes on from a smaller one begins with its outputs."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.adapters import add_adapter, save_adapter
from model.config import CheckpointError
from model.training.__main__ import main
from model.training.config import Recipe
from model.training.grown import grow_adapter
from model.training.zoo import build_zoo
from model.transformer import Transformer
from tests.tiny import BERT, random_model

CONFIG = replace(BERT, head="span", labels=())


def scores(model: Transformer) -> Tensor:
    ids = torch.tensor([[2, 5, 7, 9]])
    with torch.no_grad():
        hidden = model.encode_padded(ids, torch.ones_like(ids, dtype=torch.bool), adapter="answers")
        return model.span(hidden, "answers")


def adapter(model: Transformer, path: Path, rank: int) -> Path:
    """The folder of one with random updates."""
    add_adapter(model, "answers", CONFIG, rank, 2 * rank)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.2)
    save_adapter(model, "answers", CONFIG, path, "base")
    return path


def base() -> Transformer:
    return random_model(BERT, dtype=torch.float32, head="none", labels=()).eval()


def test_a_grown_adapter_begins_with_the_outputs_of_the_smaller_one(tmp_path: Path) -> None:
    small, large = base(), base()
    folder = adapter(small, tmp_path / "small", rank=2)
    added = add_adapter(large, "answers", CONFIG, 6, 6.0)
    assert not torch.allclose(scores(large), scores(small), atol=1e-2)
    grow_adapter(large, "answers", folder)
    assert torch.allclose(scores(large), scores(small), atol=1e-5)
    ids = torch.tensor([[2, 5, 7, 9]])
    hidden = large.encode_padded(ids, torch.ones_like(ids, dtype=torch.bool), adapter="answers")
    hidden.square()[..., :5].sum().backward()  # type: ignore[no-untyped-call]
    up = next(parameter for parameter in added if parameter.shape[-1] == 6)
    assert up.grad is not None
    assert up.grad[:, 2:].abs().sum() > 0, "the spare ranks learn too"


def test_one_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = adapter(base(), tmp_path / "large", rank=6)
    small = base()
    add_adapter(small, "answers", CONFIG, 2, 4.0)
    with pytest.raises(CheckpointError, match="rank 6, the new adapter has 2"):
        grow_adapter(small, "answers", folder)


def test_a_recipe_without_the_adapter_it_goes_on_from_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["finetune", "--recipe", "qa-more", "--data", str(tmp_path), "--init-from", str(tmp_path)]
    assert main([*command, "--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == (
        "error: recipe qa-more goes on from the adapter of qa: give --adapter-from\n"
    )


def test_the_zoo_hands_a_recipe_the_adapter_that_it_goes_on_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapters: dict[str, Path | None] = {}

    def stage(recipe: Recipe, data: Path, out: Path, init: Path, *, adapter_from: Path | None) -> None:
        assert init == tmp_path / "zoo" / "minilm"
        (out / "adapter").mkdir(parents=True)
        adapters[recipe.name] = adapter_from

    monkeypatch.setattr("model.training.zoo.run_stage", stage)
    monkeypatch.setattr("model.training.zoo.ZOO_ORDER", ("qa", "qa-more"))
    monkeypatch.setattr("model.training.zoo.ZOO_FOLDERS", {})
    (tmp_path / "zoo" / "minilm").mkdir(parents=True)
    (tmp_path / "zoo" / "minilm" / "model.safetensors").touch()
    build_zoo(tmp_path, tmp_path / "runs", tmp_path / "zoo")
    assert adapters == {"qa": None, "qa-more": tmp_path / "runs" / "qa" / "adapter"}
