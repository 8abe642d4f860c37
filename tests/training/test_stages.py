"""Whole stages by the command line on a handful of examples, and what others can load of their results."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaForCausalLM,
    T5ForConditionalGeneration,
)

from model.adapters import add_adapter, save_adapter
from model.greedy import generate_greedy
from model.loading import load_model, save_model
from model.tokenization import Tokenizer
from model.training import __main__ as command_line
from model.training import recipes
from model.training.__main__ import main
from model.training.config import Recipe
from model.training.tokenizer import train_text_to_text
from tests.tiny import BERT, random_model

SENTENCES = [
    ("I see the red house.", "Ich sehe das rote Haus.", "Je vois la maison rouge.", "我看见红色的房子。"),
    ("The dog sleeps.", "Der Hund schläft.", "Le chien dort.", "狗在睡觉。"),
    ("She reads a book.", "Sie liest ein Buch.", "Elle lit un livre.", "她在看书。"),
    ("Where is the station?", "Wo ist der Bahnhof?", "Où est la gare ?", "车站在哪里？"),
]
PROSE = " The tower was built in 1889 . It is 300 metres high , and the city grew round it . "


def _write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data folder in small."""
    root = tmp_path_factory.mktemp("data")
    for column, language in enumerate(("de", "fr", "zh"), start=1):
        lines = [f"{row[0]}\t{row[column]}" for row in SENTENCES]
        for name in (f"tatoeba.en-{language}.train", f"tatoeba.en-{language}.dev"):
            _write(root / "mt" / f"{name}.tsv.gz", lines)
        for test in ("tatoeba-test-v2020-07-28", "tatoeba-test-v2021-08-07", "tico19-test"):
            _write(root / "mt" / f"{test}.en-{language}.tsv.gz", lines)
    article = [f" = Tower {number} = \n{PROSE}\n{PROSE}" for number in range(4)]
    for split in ("train", "valid", "test"):
        _write(root / "text" / f"wikitext-2.{split}.txt.gz", article)
    story = "Once there was a small dog. It ran home."
    _write(root / "text" / "tinystories-sample.txt.gz", [story] * 12)
    book = {"id": "b", "title": "Book", "text": "\n".join(f"Chapter {n}. {story}" for n in range(60))}
    _write(root / "text" / "public-domain-fiction.jsonl.gz", [json.dumps(book)])
    return root


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> dict[str, Recipe]:
    """The recipes with models of a few thousand parameters."""
    t5 = {"d_model": 16, "d_kv": 8, "num_heads": 2, "d_ff": 32, "num_layers": 1, "num_decoder_layers": 1}
    llama = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "head_dim": 8}
    changes: dict[str, dict[str, Any]] = {
        "translator-pretrain": t5 | {"vocab_size": 420},
        "writer": llama | {"vocab_size": 300, "num_attention_heads": 2, "num_key_value_heads": 1},
    }
    table = dict(recipes.RECIPES)
    for name, change in changes.items():
        table[name] = replace(table[name], architecture=dict(table[name].architecture or {}) | change)
    monkeypatch.setattr(command_line, "RECIPES", table)
    return table


def test_a_translator_is_made_scored_and_loads_elsewhere(
    data: Path, small: dict[str, Recipe], tmp_path: Path
) -> None:
    arguments = ["--data", str(data), "--max-epochs", "1"]
    first, second, zoo = tmp_path / "first", tmp_path / "second", tmp_path / "zoo"
    assert main(["pretrain", "--recipe", "translator-pretrain", "--out", str(first), *arguments]) == 0
    command = [
        "finetune",
        "--recipe",
        "translator",
        "--init-from",
        str(first / "model"),
        "--out",
        str(second),
    ]
    assert main([*command, *arguments]) == 0
    assert (second / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert not list(second.glob("checkpoint-*"))
    assert main(["export", "--run", str(second), "--out", str(zoo)]) == 0
    scores = tmp_path / "scores.json"
    command = ["evaluate", "--recipe", "translator", "--model", str(zoo), "--data", str(data)]
    assert main([*command, "--limit", "2", "--only", "v2020", "--out", str(scores)]) == 0
    found = json.loads(scores.read_text())
    assert set(found) == {"tatoeba-test-v2020-07-28 en-de", "tatoeba-test-v2020-07-28 en-fr"}
    assert found["tatoeba-test-v2020-07-28 en-de"]["examples"] == 2
    assert found["tatoeba-test-v2020-07-28 en-de"]["num_beams"] == 4

    theirs = T5ForConditionalGeneration.from_pretrained(zoo, dtype=torch.float32)
    assert theirs.generation_config.num_beams == 4
    tokenizer, text = AutoTokenizer.from_pretrained(zoo), "<2de> The dog sleeps."
    ours, own = load_model(zoo, torch.float32), Tokenizer.from_folder(zoo)
    assert tokenizer(text)["input_ids"] == own.encode(text).ids
    ids = torch.tensor([own.encode(text).ids])
    start, mask = torch.tensor([[0, 7, 9]]), torch.ones_like(ids, dtype=torch.bool)
    with torch.no_grad():
        expected = theirs(input_ids=ids, decoder_input_ids=start).logits
        hidden = ours.decode_padded(
            start, torch.ones_like(start, dtype=torch.bool), ours.encode_padded(ids, mask), mask
        )
        assert torch.allclose(ours.logits(hidden), expected, atol=1e-4)
        generated = theirs.generate(ids, max_new_tokens=8, do_sample=False, num_beams=1)[0, 1:].tolist()
    answer = generate_greedy(ours, ids.tolist(), 8)[0]
    assert generated[: len(answer)] == answer


def test_the_zoo_is_built_in_order_and_what_is_done_is_not_done_again(
    data: Path, small: dict[str, Recipe], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = tuple(name for name in recipes.ZOO_ORDER if name.startswith("translator") or name == "writer")
    table = {}
    for name in order:
        recipe = small[name]
        table[name] = replace(recipe, schedule=replace(recipe.schedule, max_epochs=1))
    folders = {"translator": "translator", "writer": "writer"}
    for name, value in {"RECIPES": table, "ZOO_ORDER": order, "ZOO_FOLDERS": folders}.items():
        monkeypatch.setattr(f"model.training.zoo.{name}", value)
    tests = {"de": ("tatoeba-test-v2020-07-28",), "fr": (), "zh": ()}
    monkeypatch.setattr("model.training.evaluate.TRANSLATION_TESTS", tests)
    runs, zoo = tmp_path / "runs", tmp_path / "zoo"
    (zoo / "minilm").mkdir(parents=True)
    (zoo / "minilm" / "model.safetensors").touch()
    arguments = ["zoo", "--data", str(data), "--out", str(runs), "--zoo", str(zoo)]
    assert main(arguments) == 0
    for name in folders:
        assert load_model(zoo / name).config.vocab_size == Tokenizer.from_folder(zoo / name).vocab_size
        assert json.loads((zoo / name / "scores.json").read_text())
    times = {name: (runs / name / "result.json").stat().st_mtime_ns for name in order}
    assert main(arguments) == 0
    assert times == {name: (runs / name / "result.json").stat().st_mtime_ns for name in order}


def test_a_writer_is_made_scored_and_loads_elsewhere(
    data: Path, small: dict[str, Recipe], tmp_path: Path
) -> None:
    run, zoo = tmp_path / "run", tmp_path / "zoo"
    arguments = ["--data", str(data)]
    assert main(["pretrain", "--recipe", "writer", "--max-epochs", "1", "--out", str(run), *arguments]) == 0
    assert main(["export", "--run", str(run), "--out", str(zoo)]) == 0
    scores = tmp_path / "scores.json"
    command = ["evaluate", "--recipe", "writer", "--model", str(zoo), "--out", str(scores)]
    assert main([*command, *arguments]) == 0
    assert json.loads(scores.read_text())["wikitext-2 test"]["perplexity"]["value"] > 1

    theirs = LlamaForCausalLM.from_pretrained(zoo, dtype=torch.float32)
    tokenizer, own = AutoTokenizer.from_pretrained(zoo), Tokenizer.from_folder(zoo)
    assert tokenizer("Once there")["input_ids"] == own.encode("Once there").ids
    assert own.decode(own.encode("Once  there – 狗\n").ids) == "Once  there – 狗\n"
    ids = torch.tensor([own.encode("Once there").ids])
    ours = load_model(zoo, torch.float32)
    with torch.no_grad():
        logits = ours.logits(ours.decode_padded(ids, torch.ones_like(ids, dtype=torch.bool)))
        assert torch.allclose(logits, theirs(input_ids=ids).logits, atol=1e-4)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_an_adapter_gives_peft_the_same_logits(tmp_path: Path) -> None:
    base = random_model(BERT, dtype=torch.float32, head="none", labels=())
    save_model(base, tmp_path / "base")
    add_adapter(base, "mood", BERT, rank=4, alpha=8)
    with torch.no_grad():
        for parameter in base.parameters():
            if parameter.requires_grad:
                parameter.normal_(std=0.2)
    save_adapter(base, "mood", BERT, tmp_path / "mood", "base")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "base", num_labels=3)
    theirs = PeftModel.from_pretrained(theirs, tmp_path / "mood").eval()
    ids = torch.tensor([[5, 9, 33, 2, 8]])
    with torch.no_grad():
        hidden = base.eval().encode_padded(ids, torch.ones_like(ids, dtype=torch.bool), adapter="mood")
        ours = base.classify(hidden[:, 0], "mood")
        assert torch.allclose(ours, theirs(input_ids=ids).logits, atol=1e-5)
        assert not torch.allclose(ours, theirs.base_model.model.classifier.original_module.bias)


def test_a_recipe_without_its_start_is_refused_in_one_line(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["finetune", "--recipe", "intent", "--data", str(data), "--out", str(tmp_path)]
    assert main(command) == 2
    assert capsys.readouterr().err == "error: recipe intent starts from minilm: give --init-from\n"


def test_what_the_vocabulary_lacks_is_spelled_in_bytes() -> None:
    texts = [side for row in SENTENCES * 3 for side in row]
    tokenizer = train_text_to_text(texts, 420, ("de", "fr", "zh"), min_characters=3)
    ids = tokenizer.encode("<2zh> The dog 龘 sleeps.").ids
    assert ids[0] == tokenizer.token_to_id("<2zh>")
    assert "<0xE9>" in [tokenizer.id_to_token(token) for token in ids]
    assert tokenizer.decode(ids) == "The dog 龘 sleeps."
    assert len(tokenizer.encode("<0xE9>").ids) > 4
    assert tokenizer.decode(tokenizer.encode("我看见红色的房子。").ids) == "我看见红色的房子。"
