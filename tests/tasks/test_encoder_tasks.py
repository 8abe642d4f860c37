"""How classify turns logits into scores, and how fill-mask spells what each kind of tokenizer fills in."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from app.engine.protocol import Encoded, EncodeRequest, GenerateRequest, Hypotheses, Tokens
from app.tasks.base import Task, TaskModel, Usage
from app.tasks.classify import Classify
from app.tasks.fill_mask import FillMask
from model.config import TransformerConfig
from model.tokenization import Tokenizer
from tests.api.folders import byte_tokenizer
from tests.tiny import BERT


class Scripted:
    """Answers every encode with the same numbers."""

    def __init__(self, values: list[float], ids: Sequence[int] = ()) -> None:
        self.values, self.ids = np.array(values, dtype="<f4"), list(ids)

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Tokens]:
        raise NotImplementedError

    async def generate_many(self, requests: Sequence[GenerateRequest]) -> list[Tokens]:
        raise NotImplementedError

    async def search_many(self, requests: Sequence[GenerateRequest]) -> list[Hypotheses]:
        raise NotImplementedError

    async def encode_many(self, requests: Sequence[EncodeRequest]) -> list[Encoded]:
        data = self.values.tobytes()
        return [Encoded(id=1, shape=[len(self.values)], data=data, ids=self.ids) for _ in requests]


def run(
    task: type[Task], config: TransformerConfig, engine: Scripted, text: str, **options: Any
) -> list[Any]:
    tokenizer = options.pop("tokenizer", None) or Tokenizer(byte_tokenizer(pair_template=True), {})
    model = TaskModel(name="m", config=config, tokenizer=tokenizer, max_length=64, vocab_size=96)
    with ThreadPoolExecutor(1) as pool:
        made: Any = task(model, engine, pool)
        results: list[list[Any]] = asyncio.run(made.run([text], Usage(), **options))
    return results[0]


@pytest.mark.parametrize(
    ("labels", "multi_label", "asked", "scores"),
    [
        (("no", "yes"), False, None, {"yes": 0.8808, "no": 0.1192}),
        (("no", "yes"), True, None, {"yes": 0.7311, "no": 0.2689}),
        (("no", "yes"), False, True, {"yes": 0.7311, "no": 0.2689}),
        (("no", "yes"), True, False, {"yes": 0.8808, "no": 0.1192}),
        (("fits",), False, None, {"fits": 0.7311}),
        (("fits",), False, False, {"fits": 0.7311}),
    ],
)
def test_scores_sum_to_one_unless_each_label_stands_alone(
    labels: tuple[str, ...], multi_label: bool, asked: bool | None, scores: dict[str, float]
) -> None:
    config = replace(BERT, labels=labels, multi_label=multi_label)
    engine = Scripted([-1.0, 1.0][-len(labels) :])
    ranked = run(Classify, config, engine, "a text", multi_label=asked)
    assert [one.label for one in ranked] == list(scores)
    assert [one.score for one in ranked] == pytest.approx(list(scores.values()), abs=1e-4)


def mask_tokenizer(start: str) -> Tokenizer:
    """Words begin with `start`; the mask takes the space before it, as XLM-RoBERTa's and RoBERTa's do."""
    vocabulary = {"<unk>": 0, "<mask>": 1, f"{start}Paris": 2, "side": 3, f"{start}in": 4}
    inner = tokenizers.Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    if start == "▁":
        inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    else:
        inner.pre_tokenizer, inner.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    inner.add_special_tokens([tokenizers.AddedToken("<mask>", lstrip=True, special=True)])
    return Tokenizer(inner, {"mask_token": "<mask>"})


@pytest.mark.parametrize("start", ["▁", "Ġ"])
def test_a_word_that_is_filled_in_keeps_its_space(start: str) -> None:
    config = replace(BERT, head="masked-lm", labels=())
    engine = Scripted([0.7, 0.2], [2, 3])
    fillings = run(FillMask, config, engine, "in <mask>.", top_k=2, tokenizer=mask_tokenizer(start))
    assert [filling.text for filling in fillings] == ["in Paris.", "inside."]
    assert fillings[0].token == "Paris"
    first = run(FillMask, config, engine, "<mask>.", top_k=2, tokenizer=mask_tokenizer(start))
    assert first[0].text == "Paris."
