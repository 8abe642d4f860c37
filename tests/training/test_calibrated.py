"""Exported adapters are calibrated once, by what is in their files; a smaller rank does nearly the same."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from model.adapters import add_adapter, load_adapter, save_adapter
from model.config import CheckpointError
from model.families import read_config
from model.loading import load_model, save_model
from model.tokenization import Tokenizer
from model.training.__main__ import main
from model.training.objectives import classification
from model.training.recipes import RECIPES
from model.training.zoo import build_zoo
from tests.api.folders import byte_tokenizer
from tests.tiny import BERT, random_model

LABELS = ("a", "b", "oos")
CONFIG = replace(BERT, labels=LABELS, vocab_size=300)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [
        f"{split}\tword {number} {label}\t{label}\tx"
        for split in ("train", "val", "test", "oos_val")
        for number in range(12)
        for label in (["oos"] if split.startswith("oos") else ["a", "b"])
    ]
    for name in ("cls", "qa"):
        (tmp_path / "data" / name).mkdir(parents=True)
    with gzip.open(tmp_path / "data" / "cls" / "clinc150.tsv.gz", "wt", encoding="utf-8") as file:
        file.write("\n".join(rows) + "\n")
    with gzip.open(tmp_path / "data" / "qa" / "extractive-train.jsonl.gz", "wt", encoding="utf-8") as file:
        for number in range(160):
            answer = {"start": 4, "text": f"n{number}"}
            qa = {"id": str(number), "question": "which?", "answers": [answer]}
            paragraph = {"title": f"t{number // 80}", "context": f"the n{number} is it", "qas": [qa]}
            file.write(json.dumps(paragraph) + "\n")
    return tmp_path / "data"


def adapter(path: Path, name: str, **changes: object) -> Path:
    """Folders `base` and one called `name` under `path`, the latter with random updates of rank 4."""
    config = replace(CONFIG, **changes)  # type: ignore[arg-type]
    base = random_model(config, dtype=torch.float32, head="none", labels=())
    save_model(base, path / "base")
    byte_tokenizer(pair_template=True).save(str(path / "base" / "tokenizer.json"))
    (path / "base" / "tokenizer_config.json").write_text("{}")
    add_adapter(base, name, config, rank=4, alpha=8)
    with torch.no_grad():
        for parameter in base.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.2)
    save_adapter(base, name, config, path / name, "base", torch.float16)
    return path / name


def logits(path: Path, data: Path) -> Tensor:
    model = load_model(path / "base", torch.float32)
    config = load_adapter(model, "intent", path / "intent")
    tokenizer = Tokenizer.from_folder(path / "base")
    return classification(RECIPES["intent"], tokenizer, config, data, "intent", "intent").development(model)[
        0
    ]


def test_a_classifier_gets_a_temperature_and_a_bias_once(data: Path, tmp_path: Path) -> None:
    folder = adapter(tmp_path, "intent")
    before = logits(tmp_path, data)
    command = ["calibrate", "--recipe", "intent", "--model", str(folder), "--base", str(tmp_path / "base")]
    assert main([*command, "--data", str(data)]) == 0
    told = json.loads((folder / "stage.json").read_text())["calibration"]
    after = logits(tmp_path, data)
    wanted = before / told["temperature"]
    wanted[:, LABELS.index("oos")] += told["bias"]
    assert told["temperature"] != 1.0
    assert torch.allclose(after, wanted, atol=2e-2)
    weights = (folder / "adapter_model.safetensors").read_bytes()
    assert main([*command, "--data", str(data)]) == 2
    assert (folder / "adapter_model.safetensors").read_bytes() == weights


def test_an_answer_finder_gets_the_value_of_no_answer(data: Path, tmp_path: Path) -> None:
    folder = adapter(tmp_path, "qa", head="span", labels=())
    command = ["calibrate", "--recipe", "qa", "--model", str(folder), "--base", str(tmp_path / "base")]
    assert main([*command, "--data", str(data)]) == 0
    told = json.loads((folder / "stage.json").read_text())["calibration"]
    assert read_config(folder).no_answer_value == pytest.approx(told["value"], abs=1e-3)
    assert 0.0 <= told["answered"] <= 100.0


@pytest.mark.parametrize("value", ["much", None, True, float("nan")])
def test_a_value_of_no_answer_that_is_no_number_is_refused(tmp_path: Path, value: object) -> None:
    folder = adapter(tmp_path, "qa", head="span", labels=())
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"quartet": {"no_answer": value}}))
    with pytest.raises(CheckpointError, match=r"quartet\.no_answer must be a number"):
        read_config(folder)


def test_a_smaller_rank_keeps_what_is_largest(data: Path, tmp_path: Path) -> None:
    folder = adapter(tmp_path, "intent")
    before = logits(tmp_path, data)
    command = ["shrink", "--recipe", "intent", "--model", str(folder), "--base", str(tmp_path / "base")]
    assert main([*command, "--rank", "4"]) == 0
    assert torch.allclose(logits(tmp_path, data), before, atol=2e-2)
    assert main([*command, "--rank", "2"]) == 0
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 2
    moved = (logits(tmp_path, data) - before).abs().max()
    assert 1e-3 < moved < before.abs().max()


@pytest.mark.parametrize("rank", [0, 5])
def test_a_rank_that_no_update_has_is_refused(
    rank: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = adapter(tmp_path, "intent")
    command = ["shrink", "--recipe", "intent", "--model", str(folder), "--base", str(tmp_path / "base")]
    assert main([*command, "--rank", str(rank)]) == 2
    assert capsys.readouterr().err == f"error: {folder}: rank {rank}, of 1 to 4 that an update has\n"
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 4


def test_the_zoo_cuts_an_adapter_to_the_rank_that_it_ships(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, zoo = tmp_path / "runs" / "sentiment", tmp_path / "zoo"
    adapter(tmp_path, "sentiment").rename(tmp_path / "adapter")
    run.mkdir(parents=True)
    (tmp_path / "adapter").rename(run / "adapter")
    (run / "result.json").write_text('{"dev": {}}')
    zoo.mkdir()
    (tmp_path / "base").rename(zoo / "minilm")
    recipe = RECIPES["sentiment"]
    assert recipe.lora is not None
    recipe = replace(recipe, lora=replace(recipe.lora, shipped_rank=2))
    names = {"RECIPES": {"sentiment": recipe}, "ZOO_ORDER": ("sentiment",)}
    calls: dict[str, object] = dict.fromkeys(("calibrate", "evaluate", "write_card"), lambda *_: {})
    folders = {"ZOO_FOLDERS": {"sentiment": "sentiment"}}
    for name, value in {**names, **folders, **calls}.items():
        monkeypatch.setattr(f"model.training.zoo.{name}", value)
    build_zoo(tmp_path, tmp_path / "runs", zoo)
    assert json.loads((zoo / "sentiment" / "adapter_config.json").read_text())["r"] == 2
