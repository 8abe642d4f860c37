"""`quartet train` on small files: what it leaves is whole, loads elsewhere and says what it is."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
)

from app.tasks.served import read_served
from model.adapters import load_adapter
from model.loading import load_model
from model.tokenization import Tokenizer
from model.training import loop
from model.training.__main__ import main
from model.training.own_data import classifier
from model.training.own_data.columns import Task
from model.training.own_data.plan import Plan
from tests.e2e.checkpoints import write_checkpoints
from tests.training.own_data_files import losses, write_data

BASES: dict[Task, str] = {
    "classification": "sentences",
    "qa": "sentences",
    "translation": "translator",
    "seq2seq": "translator",
    "lm": "writer",
}
ELSEWHERE = {
    "classification": AutoModelForSequenceClassification,
    "qa": AutoModelForQuestionAnswering,
    "translation": AutoModelForSeq2SeqLM,
    "seq2seq": AutoModelForSeq2SeqLM,
    "lm": AutoModelForCausalLM,
}
SERVED = {
    "classification": "classify",
    "qa": "qa",
    "translation": "translate",
    "seq2seq": "generate",
    "lm": "generate",
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_checkpoints(tmp_path_factory.mktemp("bases"))


def command(task: Task, bases: dict[str, Path], root: Path, *flags: str) -> list[str]:
    data = write_data(root, task)
    languages = ["--source-language", "en", "--target-language", "de"] if task == "translation" else []
    command = ["train", "--task", task, "--data", str(data), "--base", str(bases[BASES[task]])]
    command += ["--out", str(root / "out"), "--batch", "8", "--max-steps", "6", "--validate-every", "3"]
    short = ["--max-length", "32"] if task in ("qa", "lm") else []
    return [*command, *languages, *short, *flags]


@pytest.mark.parametrize("task", list(BASES))
def test_every_task_leaves_a_folder_to_serve(task: Task, bases: dict[str, Path], tmp_path: Path) -> None:
    assert main(command(task, bases, tmp_path)) == 0
    out = tmp_path / "out"
    served = read_served("mine", out)
    assert SERVED[task] in [one.name for one in served.tasks]
    theirs, ours = ELSEWHERE[task].from_pretrained(out, dtype=torch.float32), load_model(out, torch.float32)
    assert sum(p.numel() for p in theirs.parameters()) == ours.num_parameters
    before = load_file(bases[BASES[task]] / "model.safetensors")
    after = load_file(out / "model.safetensors")
    prefix = "bert." if task in ("classification", "qa") else ""
    changed = [name for name in before if not torch.equal(before[name].float(), after[prefix + name])]
    assert len(changed) > len(before) / 2
    assert (out / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(path.name for path in (out / "training").iterdir()) == [
        "log.jsonl",
        "plan.json",
        "result.json",
    ]
    card = (out / "README.md").read_text()
    for told in (f"quartet serve --model out={out}", "## Scores", "| train |", "learning_rate", "SHA-256"):
        assert told in card
    assert json.loads((out / "training" / "result.json").read_text())["test"]


def test_a_classifier_is_calibrated_in_its_weights(
    bases: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logits = {}
    for temperature in (1.0, 2.0):
        monkeypatch.setattr(classifier, "find_temperature", lambda *_, t=temperature: t)
        out = tmp_path / str(temperature)
        assert main([*command("classification", bases, tmp_path), "--out", str(out)]) == 0
        result = json.loads((out / "training" / "result.json").read_text())
        assert result["facts"]["temperature"] == temperature
        model = AutoModelForSequenceClassification.from_pretrained(out, dtype=torch.float32).eval()
        assert model.config.id2label == {0: "cold", 1: "warm"}
        ids = torch.tensor([Tokenizer.from_folder(out).encode("red 4").ids])
        ours = load_model(out, torch.float32)
        with torch.no_grad():
            logits[temperature] = model(input_ids=ids).logits
            hidden = ours.encode_padded(ids, torch.ones_like(ids, dtype=torch.bool))
            assert torch.allclose(ours.classify(hidden[:, 0]), logits[temperature], atol=1e-5)
    assert torch.allclose(logits[1.0], 2.0 * logits[2.0], atol=1e-5)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("task", ["classification", "translation", "lm"])
def test_an_adapter_loads_here_and_in_peft(task: Task, bases: dict[str, Path], tmp_path: Path) -> None:
    assert main(command(task, bases, tmp_path, "--lora", "--rank", "4")) == 0
    out, base = tmp_path / "out", bases[BASES[task]]
    ours = load_model(base, torch.float32)
    config = load_adapter(ours, "mine", out)
    number = {"num_labels": len(config.labels)} if config.labels else {}
    theirs = ELSEWHERE[task].from_pretrained(base, dtype=torch.float32, **number)
    theirs = PeftModel.from_pretrained(theirs, out).eval()
    ids = torch.tensor([[9, 30, 41, 12]])
    mask = torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        if task == "classification":
            logits = ours.classify(ours.encode_padded(ids, mask, adapter="mine")[:, 0], "mine")
            expected = theirs(input_ids=ids).logits
        elif task == "translation":
            memory = ours.encode_padded(ids, mask, adapter="mine")
            logits = ours.logits(ours.decode_padded(ids, mask, memory, mask, "mine"))
            expected = theirs(input_ids=ids, decoder_input_ids=ids).logits
        else:
            logits = ours.logits(ours.decode_padded(ids, mask, adapter="mine"))
            expected = theirs(input_ids=ids).logits
    assert torch.allclose(logits, expected, atol=1e-4)
    assert f"--adapter out={base.name}:{out}" in (out / "README.md").read_text()


def test_ctrl_c_saves_and_says_how_to_go_on(
    bases: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = command("classification", bases, tmp_path, "--checkpoint-minutes", "60")
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert main([*arguments, "--out", str(whole)]) == 0
    accumulate, count = loop._accumulate, [0]
    before = signal.getsignal(signal.SIGINT)

    def interrupted(*given: object) -> tuple[float, int, int]:
        count[0] += 1
        if count[0] == 4:
            os.kill(os.getpid(), signal.SIGINT)
        return accumulate(*given)  # type: ignore[arg-type, type-var]

    monkeypatch.setattr(loop, "_accumulate", interrupted)
    assert main(arguments) == 130
    told = f"stopped at step 4 of at most 6; go on with:\n  quartet train --resume --out {out}"
    assert told in capsys.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before
    assert not (out / "config.json").exists()
    (out / "training" / ".writing-of-one-that-was-killed").mkdir()
    (out / "training" / ".log.jsonl.writing").touch()
    assert main(["train", "--resume", "--out", str(out)]) == 0
    assert not list(out.rglob(".*"))
    assert losses(out) == losses(whole)
    assert (out / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    assert main(["train", "--resume", "--out", str(out)]) == 0
    assert f"is finished:\n  quartet serve --model out={out}" in capsys.readouterr().err


def test_it_stops_early_and_keeps_the_best(bases: dict[str, Path], tmp_path: Path) -> None:
    flags = ("--epochs", "40", "--max-steps", "150", "--patience", "2", "--learning-rate", "0.003")
    assert main(command("classification", bases, tmp_path, *flags)) == 0
    out = tmp_path / "out"
    rows = [json.loads(line) for line in (out / "training" / "log.jsonl").read_text().splitlines()]
    dev = [(row["dev_macro_f1"], -row["dev_loss"]) for row in rows if "dev_loss" in row]
    best = dev.index(max(dev))
    assert len(dev) == best + 3 or rows[-1]["step"] == 150
    result = json.loads((out / "training" / "result.json").read_text())
    assert result["best_step"] == 3 * (best + 1)
    assert result["dev"]["macro_f1"] == dev[best][0]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        (["--base", "{writer}"], "classification needs an encoder, and this is a decoder"),
        (["--max-length", "9999"], "takes 256 tokens"),
        (["--data", "{absent}"], "No such file"),
        (["--out", "{full}"], "is not empty: choose another"),
        (["--label", "colour"], "column colour: --label says 'colour', but the columns are 'text', 'label'"),
    ],
)
def test_what_cannot_be_is_told_before_the_first_step(
    changes: list[str], told: str, bases: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").touch()
    places = {"writer": bases["writer"], "absent": tmp_path / "absent.csv", "full": tmp_path / "full"}
    arguments = command("classification", bases, tmp_path)
    assert main([*arguments, *(change.format(**places) for change in changes)]) == 2
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_rows_to_test_on_are_never_trained_on(
    bases: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    held_out = write_data(tmp_path / "held out", "classification", 4)
    held_out.write_text(held_out.read_text() + '{"text": "new", "label": "unheard of"}\n')
    assert main(command("classification", bases, tmp_path, "--eval-data", str(held_out))) == 0
    told = capsys.readouterr().err
    assert "row 2: stands in row 2 of the file to test on" in told
    assert "row 5, column label: 'unheard of' is the label of no row" in told
    assert "32 rows to train on, 4 to choose by, 4 to test on" in told


def test_a_run_may_do_without_rows_to_choose_by_and_to_test_on(
    bases: dict[str, Path], tmp_path: Path
) -> None:
    assert main(command("classification", bases, tmp_path, "--dev-share", "0", "--test-share", "0")) == 0
    card = (tmp_path / "out" / "README.md").read_text()
    assert "nothing is known of how well it does" in card
    assert "were not calibrated" in card
    rows = [{"question": f"{i}?", "context": "one text for all: red", "answer": "red"} for i in range(12)]
    arguments = command("qa", bases, tmp_path / "one context")
    (tmp_path / "one context" / "qa.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert main(arguments) == 0


def test_a_loss_that_is_no_number_ends_the_run(
    bases: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = ("--learning-rate", "1e30", "--warmup-steps", "1")
    assert main(command("classification", bases, tmp_path, *flags)) == 2
    assert "the loss is no number; a lower --learning-rate may help" in capsys.readouterr().err
    assert not (tmp_path / "out" / "config.json").exists()


def test_a_resumed_run_wants_the_same_data(
    bases: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(["train", "--resume", "--out", str(out)]) == 2
    assert "no run to resume" in capsys.readouterr().err
    assert main(command("classification", bases, tmp_path)) == 0
    plan = Plan.read(out)
    (out / "training" / "result.json").unlink()
    Path(plan.data).write_text(Path(plan.data).read_text() + "\n")
    assert main(["train", "--resume", "--out", str(out)]) == 2
    assert "has changed since the run began" in capsys.readouterr().err
