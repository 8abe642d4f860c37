"""What each objective shows the model, what it asks back, and that learning it lowers its loss."""

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import tokenizers
import torch
from tokenizers.pre_tokenizers import Whitespace

from model.adapters import add_adapter
from model.config import TransformerConfig
from model.tokenization import Tokenizer
from model.training.config import Schedule
from model.training.finetune import Classification, ExtractiveAnswers
from model.training.loop import Objective, train
from model.training.padded import IGNORED
from model.training.pretrain import MaskedLanguageModel, NextToken, SpanCorruption
from model.training.spans import PairTemplate, Question, Window, best_span
from model.training.text_to_text import TextToText
from model.transformer import OWN, Transformer
from tests.tiny import BERT, LLAMA, T5, random_model

SCHEDULE = Schedule(
    learning_rate=5e-3, max_epochs=8, warmup_steps=4, batch_tokens=160, precision="float32", seed=2
)


def _fresh(config: TransformerConfig) -> Transformer:
    config = replace(config, initializer_range=0.05)
    return random_model(config, dtype=torch.float32).requires_grad_(True)


def _mean_loss(model: Transformer, objective: Objective) -> float:
    model.eval()
    with torch.no_grad():
        return float(objective.loss(model, objective.collate(list(range(len(objective.lengths))), 0))[0])


def _learns(
    model: Transformer, objective: Objective, run: Path, *, num_epochs: int = 8, share: float = 0.8
) -> None:
    """After training, the loss is below `share` of what it was."""
    before = _mean_loss(model, objective)
    train(model, objective, replace(SCHEDULE, max_epochs=num_epochs), run)
    assert _mean_loss(model, objective) < share * before


def test_next_token_predicts_each_token_once_and_never_the_unlearned() -> None:
    documents = [[5, 6, 7, 8], [9, 10, 2, 11]]
    objective = NextToken(documents, [], block=4, separator=1, unlearned=frozenset({2}))
    batch = objective.collate([0, 1, 2], 0)
    targets = [t for t in batch["targets"].flatten().tolist() if t != IGNORED]
    assert targets == [5, 6, 7, 8, 1, 9, 10, 11]
    assert batch["ids"][0].tolist() == [1, 5, 6, 7, 8]


def test_next_token_is_learnt(tmp_path: Path) -> None:
    documents = [[3 + (start + i) % 5 for i in range(24)] for start in range(10)]
    _learns(_fresh(LLAMA), NextToken(documents, [], block=12, separator=1), tmp_path)


def test_span_corruption_can_be_undone() -> None:
    sentinels = list(range(90, 96))
    objective = SpanCorruption([[1] * 9], sentinels=sentinels, end=1, start=0)
    draw = random.Random(0)
    for length in range(4, 60):
        text = [10 + i for i in range(length)]
        source, target = objective.corrupt(text, draw)
        assert (source[-1], target[-1]) == (1, 1)
        spans: dict[int, list[int]] = {}
        for token in target[:-1]:
            if token in sentinels:
                spans[token] = []
            else:
                spans[list(spans)[-1]].append(token)
        rebuilt: list[int] = []
        for token in source[:-1]:
            rebuilt += spans.pop(token) if token in sentinels else [token]
        assert (rebuilt, spans) == (text, {})
        assert sum(t not in sentinels for t in target[:-1]) == max(1, round(0.15 * length))


def test_span_corruption_is_learnt(tmp_path: Path) -> None:
    texts = [[10 + (start + i) % 6 for i in range(12)] for start in range(30)]
    _learns(_fresh(T5), SpanCorruption(texts, sentinels=[90, 91, 92], end=1, start=0), tmp_path)


def test_text_to_text_pads_both_sides_and_is_learnt(tmp_path: Path) -> None:
    pairs = [
        ([10 + i % 9, 20 + i % 4, 1], [30 + i % 9, 1] if i % 2 else [40 + i % 9, 50, 1]) for i in range(40)
    ]
    objective = TextToText(pairs, start=0, label_smoothing=0.0)
    batch = objective.collate([0, 1], 0)
    assert batch["inputs"].tolist() == [[0, 40, 50], [0, 31, 0]]
    assert batch["targets"].tolist() == [[40, 50, 1], [31, 1, IGNORED]]
    assert batch["target_mask"].tolist() == [[True, True, True], [True, True, False]]
    _learns(_fresh(T5), objective, tmp_path)


def _masked(head: str = OWN, adapter: str | None = None) -> MaskedLanguageModel:
    documents = [[[10 + d, 20 + d, 30 + s, 40 + d] for s in range(6)] for d in range(6)]
    return MaskedLanguageModel(
        documents,
        documents,
        block=24,
        cls=2,
        sep=3,
        mask=4,
        first_word=10,
        vocab_size=96,
        head=head,
        adapter=adapter,
    )


def test_masked_lm_hides_words_only_and_says_which_pairs_follow() -> None:
    objective = _masked()
    indices = list(range(len(objective.lengths)))
    batch = objective.collate(indices, 1)
    chosen = batch["targets"] != IGNORED
    assert bool(chosen.any())
    assert not bool((chosen & ~batch["mask"]).any())
    assert int(batch["targets"][chosen].min()) >= 10
    assert 0.05 < float(chosen.sum() / batch["mask"].sum()) < 0.25
    assert set(batch["follows"].tolist()) == {0, 1}
    assert int((batch["ids"] == 4).sum()) > 0.5 * int(chosen.sum())
    assert torch.equal(batch["ids"], objective.collate(indices, 1)["ids"])
    assert not torch.equal(batch["ids"], objective.collate(indices, 2)["ids"])


def test_masked_lm_is_learnt_by_an_adapter_that_leaves_the_base_alone(tmp_path: Path) -> None:
    model = _fresh(replace(BERT, head="none")).requires_grad_(False)
    before = {name: p.clone() for name, p in model.named_parameters()}
    config = replace(BERT, head="pretraining", labels=())
    added = add_adapter(model, "fill", config, 4, 8)
    assert {id(p) for p in added} == {id(p) for p in model.parameters() if p.requires_grad}
    objective = _masked("fill", "fill")
    _learns(model, objective, tmp_path, num_epochs=20, share=0.95)
    assert set(objective.validate(model)) == {"masked_accuracy", "next_sentence_accuracy", "masked_loss"}
    for name, parameter in before.items():
        assert torch.equal(parameter, model.get_parameter(name))


def test_classification_is_learnt_to_the_last_example(tmp_path: Path) -> None:
    examples = [([2, 10 + i % 7, 30 + i % 3, 3], i % 3) for i in range(60)]
    objective = Classification(examples, examples[:9])
    model = _fresh(BERT)
    _learns(model, objective, tmp_path, num_epochs=30)
    scores = objective.validate(model)
    assert (scores["accuracy"], scores["macro_f1"]) == (100.0, 100.0)
    assert 0.0 < scores["loss"] < 0.5


@pytest.fixture
def words(tmp_path: Path) -> Tokenizer:
    vocabulary = {
        word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "what", "colour", "is"])
    }
    vocabulary |= {word: i + 7 for i, word in enumerate([f"w{i}" for i in range(60)])}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    inner.pre_tokenizer = Whitespace()
    (tmp_path / "words").mkdir()
    inner.save(str(tmp_path / "words" / "tokenizer.json"))
    return Tokenizer.from_folder(tmp_path / "words")


def _question(number: int) -> Question:
    context = " ".join(f"w{(number * 7 + i) % 50}" for i in range(60)) + " is w55 w56 w1 w2"
    start = context.index("w55")
    return Question(str(number), "what colour is", context, ("w55 w56",), ((start, start + 7),))


def test_answers_are_found_in_windows_wherever_they_stand(words: Tokenizer, tmp_path: Path) -> None:
    questions = [_question(number) for number in range(40)]
    config = replace(BERT, head="span", labels=())
    objective = ExtractiveAnswers(
        questions,
        questions[:5],
        words,
        max_length=20,
        stride=8,
        negatives=0.3,
        template=PairTemplate((2,), (3,), (3,), 1),
    )
    batch = objective.collate(list(range(len(objective.lengths))), 0)
    num_without = 0
    for row, (start, end) in enumerate(zip(batch["starts"].tolist(), batch["ends"].tolist(), strict=True)):
        tokens = [words.id_to_token(int(token)) for token in batch["ids"][row]]
        assert bool(batch["answerable"][row, start])
        if start:
            assert tokens[start : end + 1] == ["w55", "w56"]
        else:
            num_without += 1
            assert "w55" not in tokens
    assert 2 < num_without < len(objective.lengths) / 2
    model = _fresh(config)
    _learns(model, objective, tmp_path, num_epochs=20)
    assert len(words.encode(questions[0].context).ids) > BERT.max_positions
    assert objective.validate(model) == {"exact_match": 100.0, "f1": 100.0}


def test_the_best_span_does_not_end_before_it_starts() -> None:
    window = Window([2, 4, 3, 7, 8, 9, 3], [0] * 7, [None, None, None, (0, 2), (3, 5), (6, 8), None])
    scores = torch.zeros(7, 2)
    scores[5, 0], scores[3, 1], scores[4, 1], scores[3, 0] = 9.0, 9.0, 5.0, 5.0
    found = best_span(scores, window, "ab cd ef")
    assert (found.text, found.value) == ("ab", 14.0)
    # Six spans: e to the 14, 9 + 5, 5 + 9 … of starts at or before their ends.
    starts, ends = [5.0, 0.0, 9.0], [9.0, 5.0, 0.0]
    sums = [math.exp(starts[i] + ends[j]) for i in range(3) for j in range(i, 3)]
    assert found.total == pytest.approx(math.log(sum(sums)))
