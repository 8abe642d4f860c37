"""The comparison with what came before: counted models by hand, networks by their full softmax, the whole in small."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional

from model.loading import save_model
from model.tokenization import Tokenizer
from model.training.__main__ import main
from model.training.config import Schedule
from model.training.data import first_of_each_label
from model.training.history import pieces, recipes
from model.training.history.kneser_ney import KneserNey
from model.training.history.next_word import NextWord
from model.training.history.report import BEGIN, END
from model.training.history.rows import Row
from model.training.history.word_models import LstmWords, TransformerWords, WordModel
from model.training.history.words import Ids, Vocabulary, article_of_each, fiction_words
from model.training.loop import train
from model.training.stages import copy_tokenizer
from tests.tiny import BERT, random_model

SMALL = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
DECODER = {**SMALL, "max_position_embeddings": 8, "tie_word_embeddings": True}


def _stream(*words: int) -> Ids:
    return np.array(words, dtype=np.int64)


def test_kneser_ney_is_what_a_hand_computes() -> None:
    # a b a c: the bigrams ab, ba, ac came once each. Too little to estimate discounts: 0.5 for what came once.
    model = KneserNey(_stream(0, 1, 0, 2), vocab_size=3, order=2)
    # a, b and c were each seen after one other word: of 3 continuations each has 1, less 0.5; 1.5 are kept back.
    unigram = (1 - 0.5) / 3 + 1.5 / 3 * (1 / 3)
    # After a came b and c: of 2 each has 1, less 0.5, and 1.0 is kept back for the unigrams.
    after_a = (1 - 0.5) / 2 + 1.0 / 2 * unigram
    assert unigram == pytest.approx(1 / 3)
    assert model.probabilities(_stream(0, 1)).tolist() == pytest.approx([unigram, after_a])
    # c a was never seen, and nothing came after c: its successor is as likely as without it.
    assert model.probabilities(_stream(2, 0))[1] == pytest.approx(unigram)
    assert model.probabilities(_stream(0, 0))[1] == pytest.approx(1.0 / 2 * unigram)


def test_a_word_counts_by_how_many_words_it_follows_not_by_how_often() -> None:
    # 1 comes after 0 alone, four times; 2 comes after 3 and after 4, once each.
    model = KneserNey(_stream(0, 1, 0, 1, 0, 1, 0, 1, 3, 2, 4, 2), vocab_size=6, order=2)
    unknown_history = 5
    often, widely = (model.probabilities(_stream(unknown_history, word))[1] for word in (1, 2))
    assert widely > often


def test_discounts_follow_the_counts_of_counts() -> None:
    # 4 words once, 3 twice, 2 three times, 1 four times: a unigram model, so raw counts.
    times = [1, 1, 1, 1, 2, 2, 2, 3, 3, 4]
    stream = np.repeat(np.arange(10), times)
    found = KneserNey(stream, vocab_size=11, order=1).probabilities(np.arange(11))
    y = 4 / (4 + 2 * 3)
    one, two, more = 1 - 2 * y * 3 / 4, 2 - 3 * y * 2 / 3, 3 - 4 * y * 1 / 2
    kept_back = (4 * one + 3 * two + 3 * more) / 20 / 11
    assert found[0] == pytest.approx((1 - one) / 20 + kept_back)
    assert found[4] == pytest.approx((2 - two) / 20 + kept_back)
    assert found[9] == pytest.approx((4 - more) / 20 + kept_back)
    assert found[10] == pytest.approx(kept_back)


@pytest.mark.parametrize("history", [(3, 1, 4), (1, 1, 1), (6, 6, 6)])
def test_probabilities_of_all_words_sum_to_one(history: tuple[int, ...]) -> None:
    draw = np.random.default_rng(0)
    model = KneserNey(draw.integers(6, size=300), vocab_size=7, order=4)  # 6 never comes up
    found = [model.probabilities(_stream(*history, word))[-1] for word in range(7)]
    assert min(found) > 0
    assert sum(found) == pytest.approx(1.0)


def test_fiction_is_cut_as_wikitext_is() -> None:
    text = "“Don’t,” said the well-known _Mr._ Fox--'I've 3 dogs!'"
    expected = "\" Don 't , \" said the well @-@ known Mr . Fox — ' I 've 3 dogs ! '"
    assert fiction_words(text) == expected.split()


def test_unknown_words_and_line_ends_are_words() -> None:
    lines = [["a", "a", "<unk>"], [], ["b"]]
    vocabulary = Vocabulary(lines)
    assert vocabulary.words == ["<eos>", "a", "<unk>", "b"]
    assert vocabulary.stream([["a", "z"], []]).tolist() == [1, 2, 0, 0]
    assert article_of_each([["=", "A", "="], ["x"], ["=", "=", "B", "=", "="], ["=", "C", "="]]).tolist() == [
        *([1] * 4),
        *([1] * 2),
        *([1] * 6),
        *([2] * 4),
    ]


def _models() -> list[WordModel]:
    torch.manual_seed(0)
    return [LstmWords(12, 16, 2, 0.0).eval(), TransformerWords(12, DECODER, 0.0).eval()]


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("size", [1, 4, 5, 23])
def test_each_word_is_scored_once_after_the_words_before_it(kind: int, size: int) -> None:
    model = _models()[kind]
    ids = torch.arange(size) % 11 + 1
    stream = [0, *ids.tolist()]
    found = model.word_losses(ids, 0, window=8, together=2)
    for place in range(size):
        before = stream[max(0, place // 4 * 4 - 4) : place + 1]
        with torch.no_grad():
            logits = functional.linear(model(torch.tensor([before]))[0, -1], model.words.weight)
        assert float(found[place]) == pytest.approx(float(-logits.log_softmax(-1)[ids[place]]), abs=1e-4)


def test_the_sampled_sum_stands_for_the_whole_vocabulary() -> None:
    stream = np.arange(60) % 12
    whole = NextWord(stream, stream[:0], 12, block=6, num_frequent=12, num_sampled=0)
    part = NextWord(stream, stream[:0], 12, block=6, num_frequent=4, num_sampled=4)
    model = _models()[0]
    with torch.no_grad():
        states = model(whole.collate([0, 1], 0)["ids"])
        logits = functional.linear(states, model.words.weight).flatten(0, 1)
        targets = whole.collate([0, 1], 0)["targets"].flatten()
        exact = float(functional.cross_entropy(logits, targets))
        assert float(whole.loss(model, whole.collate([0, 1], 0))[0]) == pytest.approx(exact, abs=1e-5)
        sampled = [float(part.loss(model, part.collate([0, 1], seed))[0]) for seed in range(200)]
    assert np.mean(sampled) == pytest.approx(exact, abs=0.02)
    assert np.std(sampled) > 0


@pytest.mark.parametrize("kind", [0, 1])
def test_networks_learn_the_next_word(kind: int, tmp_path: Path) -> None:
    stream = np.arange(400) % 7
    objective = NextWord(stream, stream[:50], 12, block=8, num_frequent=4, num_sampled=4)
    schedule = Schedule(
        learning_rate=1e-2, max_epochs=120, warmup_steps=4, batch_tokens=64, precision="float32", seed=2
    )
    assert train(_models()[kind], objective, schedule, tmp_path)["perplexity"] < 2


def _write(path: Path, lines: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data folder in small."""
    root = tmp_path / "data"
    prose = " The tower was built in 1889 . It is <unk> metres high , and the city grew round it . "
    article = [line for number in range(6) for line in (f" = Tower {number} = ", prose, prose)]
    for split in ("train", "valid", "test"):
        _write(root / "text" / f"wikitext-2.{split}.txt.gz", article)
    book = {"id": "b", "title": "Book", "text": "It was a small dog.\nIt ran home."}
    _write(root / "text" / "public-domain-fiction.jsonl.gz", [json.dumps(book)])
    rows = [
        f"{split}\t{word} it {n}\t{word}"
        for split in ("train", "val", "test")
        for word in "xyz"
        for n in range(3)
    ]
    _write(root / "cls" / "clinc150.tsv.gz", [*rows, "oos_train\tno\toos", "oos_test\tno\toos"])
    _write(root / "cls" / "banking77.tsv.gz", [row for row in rows if not row.startswith("val")])
    answer = {"start": 4, "text": "tower"}
    train_rows = [
        {
            "source": "squad",
            "context": prose.strip(),
            "qas": [{"id": "q", "question": "What?", "answers": [answer]}],
        }
    ] * 4
    dev_row = {"context": prose.strip(), "qas": [{"id": "q", "question": "What?", "answers": ["tower"]}]}
    _write(root / "qa" / "extractive-train.jsonl.gz", [json.dumps(row) for row in train_rows])
    _write(root / "qa" / "squad-v1.1-dev.jsonl.gz", [json.dumps(dev_row)])
    return root


@pytest.fixture
def zoo(tmp_path: Path) -> Path:
    """A base to adapt, of the shipped one's vocabulary."""
    shipped, folder = Path(__file__).parents[2] / "model/zoo/minilm", tmp_path / "zoo" / "minilm"
    folder.mkdir(parents=True)
    copy_tokenizer(shipped, folder)
    size = Tokenizer.from_folder(shipped).vocab_size
    save_model(random_model(BERT, head="none", vocab_size=size, dtype=torch.float32), folder)
    return folder.parent


def _shorten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Recipes of a few steps, for networks of a few features."""

    def brief(schedule: Schedule) -> Schedule:
        return replace(schedule, max_epochs=1, max_steps=2, warmup_steps=1)

    encoder = {**recipes.ENCODER, **SMALL}
    changed = {
        "DECODER": DECODER,
        "LSTM_SIZE": 8,
        "BLOCK": 8,
        "WORDS": brief(recipes.WORDS),
        "ENCODER": encoder,
        "MASKED_LM": replace(
            recipes.MASKED_LM, architecture=encoder, schedule=brief(recipes.MASKED_LM.schedule)
        ),
        "TASKS": {name: replace(one, schedule=brief(one.schedule)) for name, one in recipes.TASKS.items()},
        "FEW_ADAPTER": replace(recipes.FEW_ADAPTER, schedule=brief(recipes.FEW_ADAPTER.schedule)),
    }
    for name, value in changed.items():
        monkeypatch.setattr(recipes, name, value)


def test_one_command_makes_every_row_once_and_fills_the_page(
    data: Path, zoo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _shorten(monkeypatch)
    runs, page, picture = tmp_path / "runs", tmp_path / "page.md", tmp_path / "plot.svg"
    shipped = [name for name in pieces.PIECES if name.endswith("-shipped")]
    for name in shipped:  # finished before: not run again
        Row(90.0, 89.0, 91.0, 22_000_000, f1=95.0 if name.startswith("questions") else None).save(runs / name)
    page.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    command = ["history", "--data", str(data), "--out", str(runs), "--zoo", str(zoo), "--page", str(page)]
    command += ["--plot", str(picture)]
    assert main(command) == 0
    first, drawn = page.read_text(), picture.read_bytes()
    assert first.startswith(f"before\n{BEGIN}\n| test |")
    assert first.endswith(f"\n{END}\nafter\n")
    assert "old" not in first
    for name in set(pieces.PIECES) - {"masked-lm"}:
        assert first.count(f"| `{name}` |") == 1
    assert "EM 90.0, F1 95.0 | 89.0 to 91.0 | 22.0 M | – | `questions-shipped`" in first
    row = Row.read(runs / "lstm")
    assert row is not None
    assert row.low <= row.score <= row.high
    assert row.processor_s is not None

    def refuse(_: object) -> Row:
        raise AssertionError("run twice")

    monkeypatch.setattr(pieces, "PIECES", dict.fromkeys(pieces.PIECES, refuse))
    assert main(command) == 0
    assert (page.read_text(), picture.read_bytes()) == (first, drawn)


def test_a_few_labels_are_the_first_of_each() -> None:
    rows = [("a", "x"), ("b", "y"), ("c", "x"), ("d", "x"), ("e", "y")]
    assert first_of_each_label(rows, 2) == [("a", "x"), ("b", "y"), ("c", "x"), ("e", "y")]
