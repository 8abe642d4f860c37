"""What `quartet info` tells of a folder, and every reason it finds not to serve it."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from app.commands import checkpoint
from app.commands.checkpoint import describe
from app.commands.info import run
from model.config import CheckpointError, TransformerConfig
from model.fit import compare_names, main
from model.loading import load_model, save_model
from tests.api.folders import bert, write_folder
from tests.e2e.checkpoints import write_checkpoints
from tests.tiny import BERT, LLAMA, T5, random_model

ROOT = Path(__file__).resolve().parents[2]
WEIGHTS = "model.safetensors"
ADAPTER = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["q"],
    "base_model_name_or_path": "b",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a second process, which takes its time to import torch."""

    def fit(folder: Path) -> dict[str, Any]:
        capsys.readouterr()
        main([str(folder)])
        told: dict[str, Any] = json.loads(capsys.readouterr().out)
        return told

    monkeypatch.setattr(checkpoint, "run_fit", fit)


def test_a_decoder_is_told_in_numbers(folders: dict[str, Path]) -> None:
    facts = describe(folders["writer"])
    model = load_model(folders["writer"])
    assert facts["servable"]
    assert (facts["family"], facts["kind"], facts["head"], facts["tasks"]) == (
        "llama",
        "decoder",
        "lm",
        ["generate", "zero-shot"],
    )
    assert facts["architectures"] == ["LlamaForCausalLM"]
    assert facts["parameters"] == model.num_parameters
    assert facts["weight_bytes"]["bfloat16"] == 2 * model.num_parameters
    assert facts["weight_bytes"]["int4"] < facts["weight_bytes"]["int8"] < facts["weight_bytes"]["bfloat16"]
    assert (
        facts["cache_bytes_per_1000_tokens"]["float32"] == 1000 * 2 * 2 * 2 * 10 * 4
    )  # layers, k and v, heads, size
    assert facts["stored"]["numbers_by_dtype"] == {"F32": model.num_parameters}
    assert (facts["sizes"]["heads"], facts["sizes"]["key_value_heads"], facts["sizes"]["positions"]) == (
        4,
        2,
        2048,
    )
    tokenizer = facts["tokenizer"]
    assert (tokenizer["kind"], tokenizer["vocabulary"], tokenizer["chat_template"]) == ("BPE", 261, False)
    assert tokenizer["special_tokens"] == {"eos_token": "</s>"}
    assert facts["missing"] == facts["left_over"] == facts["refused"] == []


def test_labels_pooling_and_generation_are_told(folders: dict[str, Path], tmp_path: Path) -> None:
    assert describe(folders["mood"])["labels"] == ["bad", "fair", "good"]
    assert describe(folders["sentences"])["pooling"] == {
        "mode": "mean",
        "normalize": False,
        "published": False,
    }
    assert describe(folders["translator"])["tasks"] == ["translate", "generate"]
    folder = changed(folders["translator"], tmp_path)
    (folder / "generation_config.json").write_text(json.dumps({"num_beams": 4, "temperature": 0.5}))
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    facts = describe(folder)
    assert facts["generation"] == {"num_beams": 4, "temperature": 0.5}
    (folder / "generation_config.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_beams": 6}))
    assert describe(folder)["generation"]["num_beams"] == 6, "from where it is read"
    assert facts["tokenizer"]["chat_template"]
    assert facts["tasks"][0] == "translate"
    assert {"generate", "chat"} < {*facts["tasks"]}
    (folder / "chat_template.jinja").write_text("{% for %}")
    facts = describe(folder)
    assert (facts["servable"], "chat" in facts["tasks"]) == (False, False)
    assert "chat_template.jinja" in facts["refused"][0]


def test_people_and_machines_are_told_the_same(
    folders: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, folder in folders.items():
        assert run(str(folder), as_json=True) == 0
        assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(describe(folder))), name
    assert run(str(folders["mood"]), as_json=False) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()[1:])
    assert lines["tasks"] == "classify"
    assert lines["labels"] == "3: bad, fair, good"
    assert lines["stored"].endswith("as F32")
    assert lines["servable"] == "yes"
    broken = changed(folders["mood"], tmp_path)
    (broken / WEIGHTS).unlink()
    (broken / "tokenizer.json").unlink()
    assert run(str(broken), as_json=False) == 2
    refused = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  refused")]
    assert len(refused) == 2


def test_the_names_are_compared_in_a_process_of_its_own(folders: dict[str, Path]) -> None:
    run_ = subprocess.run(
        [sys.executable, "-m", "app.cli", "info", "--json", str(folders["writer"])],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert run_.returncode == 0, run_.stderr
    assert json.loads(run_.stdout) == json.loads(json.dumps(describe(folders["writer"])))
    nowhere = subprocess.run(
        [sys.executable, "-m", "app.cli", "info", "/nowhere"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (nowhere.returncode, nowhere.stdout, nowhere.stderr.count("\n")) == (2, "", 1)


def changed(folder: Path, tmp_path: Path, **keys: Any) -> Path:
    """A copy with other keys in its config."""
    copy = tmp_path / "changed"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    config = json.loads((copy / "config.json").read_text()) | keys
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def drop_the_first(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[min(tensors)]


def add_one(tensors: dict[str, torch.Tensor]) -> None:
    tensors["one.more.weight"] = torch.zeros(2)


def store_integers(tensors: dict[str, torch.Tensor]) -> None:
    first = min(tensors)
    tensors[first] = tensors[first].to(torch.int8)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (drop_the_first, ["1 are missing, the first is bert.embeddings.LayerNorm.bias"]),
        (add_one, ["1 are left over, the first is one.more.weight"]),
        (store_integers, ["bert.embeddings.LayerNorm.bias is stored as I8"]),
    ],
)
def test_weights_that_do_not_fit_are_named(
    folders: dict[str, Path],
    tmp_path: Path,
    change: Callable[[dict[str, torch.Tensor]], None],
    words: list[str],
) -> None:
    folder = changed(folders["mood"], tmp_path)
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)
    refused = describe(folder)["refused"]
    assert len(refused) == len(words)
    assert all(word in line for word, line in zip(words, refused, strict=True))


def cut_short(folder: Path) -> None:
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(data[:-1])


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).rename(folder / "pytorch_model.bin")


@pytest.mark.parametrize(
    ("keys", "harm", "word"),
    [
        ({"model_type": "nonesuch"}, None, "unknown model_type 'nonesuch'"),
        ({"architectures": ["BertForTomorrow"]}, None, "BertForTomorrow"),
        (
            {"architectures": ["BertForNextSentencePrediction"]},
            None,
            "no task is served yet for this kind (encoder)",
        ),
        ({"quantization_config": {"bits": 4}}, None, "quantized weights are not served"),
        ({"hidden_act": "nonesuch"}, None, "unknown activation 'nonesuch'"),
        ({}, cut_short, "cut short"),
        ({}, pickled, "only pickled weights"),
        ({}, lambda folder: (folder / "config.json").unlink(), "config.json is missing"),
        ({}, lambda folder: (folder / "tokenizer.json").write_text("{"), "tokenizer.json"),
        ({}, lambda folder: (folder / WEIGHTS).write_bytes(b"\xff" * 20), "header of"),
    ],
)
def test_what_cannot_be_served_is_refused_with_its_reason(
    folders: dict[str, Path],
    tmp_path: Path,
    keys: dict[str, Any],
    harm: Callable[[Path], None] | None,
    word: str,
) -> None:
    folder = changed(folders["mood"], tmp_path, **keys)
    if harm:
        harm(folder)
    facts = describe(folder)
    assert not facts["servable"]
    assert any(word in line for line in facts["refused"]), facts["refused"]
    assert not any("\n" in line for line in facts["refused"])


def test_notes_are_no_refusals(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = changed(folders["mood"], tmp_path, auto_map={"AutoModel": "modeling.Own"})
    assert describe(folder)["notes"] == ["auto_map names code in the repository; it is never run"]
    small = write_folder(tmp_path / "small", bert("BertModel"))
    config = json.loads((small / "config.json").read_text())
    (small / "config.json").write_text(json.dumps(config | {"vocab_size": 100}))
    assert describe(small)["notes"][0].startswith("the tokenizer has 261 entries, the model 100")


def test_adapters_are_recognised(tmp_path: Path) -> None:
    save_file({"base_model.model.q.lora_A.weight": torch.zeros(4, 8)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps(ADAPTER))
    facts = describe(tmp_path)
    assert (facts["what"], facts["base"], facts["rank"], facts["parameters"]) == ("adapter", "b", 4, 32)
    assert facts["servable"]
    assert "those of its base" in facts["notes"][0]
    assert run(str(tmp_path), as_json=False) == 0
    (tmp_path / "config.json").write_text(json.dumps(bert("BertForQuestionAnswering", vocab_size=9)))
    assert describe(tmp_path)["tasks"] == ["qa"]
    (tmp_path / "adapter_config.json").write_text(json.dumps(ADAPTER | {"use_dora": True}))
    (tmp_path / "adapter_model.safetensors").unlink()
    assert [line.rsplit(": ")[-1].split("/")[-1] for line in describe(tmp_path)["refused"]] == [
        "only plain LoRA adapters are served",
        "adapter_model.safetensors is missing",
    ]


@pytest.mark.parametrize("config", [LLAMA, T5, BERT], ids=lambda c: c.family)
@pytest.mark.parametrize(
    "change", [None, drop_the_first, add_one], ids=["whole", "one missing", "one left over"]
)
def test_the_comparison_says_what_loading_says(
    config: TransformerConfig, change: Callable[[dict[str, torch.Tensor]], None] | None, tmp_path: Path
) -> None:
    save_model(random_model(config, dtype=torch.float32), tmp_path)
    if change:
        tensors = load_file(tmp_path / WEIGHTS)
        change(tensors)
        save_file(tensors, tmp_path / WEIGHTS)
    fit = compare_names(tmp_path)
    named = [*(f"missing {name}" for name in fit.missing), *(f"left over {name}" for name in fit.left_over)]
    if change is None:
        assert named == []
        assert fit.num_parameters == load_model(tmp_path).num_parameters
    else:
        with pytest.raises(CheckpointError) as refused:
            load_model(tmp_path)
        assert len(named) == 1
        assert named[0] in str(refused.value)


@pytest.mark.parametrize("name", ["minilm", "qa", "translator", "writer"])
def test_the_zoo_can_be_served(name: str) -> None:
    folder = ROOT / "model" / "zoo" / name
    if not (folder / "config.json").is_file():
        pytest.skip("not in this checkout")
    assert describe(folder)["refused"] == []
