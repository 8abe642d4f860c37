"""Pairs that are too long, and texts that are made short before they are read in many pairs."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

import pytest

from app.errors import InvalidRequest
from app.tasks.base import TaskModel
from app.tasks.classify import Classify
from app.tasks.pairs import cut_text, shorten
from model.tokenization import Tokenizer
from tests.api.folders import byte_tokenizer
from tests.tasks.test_encoder_tasks import Scripted
from tests.tiny import BERT

TOKENIZER = Tokenizer(byte_tokenizer(pair_template=True), {})


@pytest.mark.parametrize(
    ("number", "limit", "wanted"),
    [
        (0, 20, "[CLS]abcdé[SEP]123[SEP]"),
        (0, 12, "[CLS]abcdé[SEP]123[SEP]"),
        (0, 10, "[CLS]abcd[SEP]123[SEP]"),
        (0, 6, "[CLS][SEP]123[SEP]"),
        (0, 2, "[CLS][SEP]123[SEP]"),
        (1, 11, "[CLS]abcdé[SEP]12[SEP]"),
        (1, 1, "[CLS]abcdé[SEP][SEP]"),
    ],
)
def test_one_text_of_a_pair_gives_way(number: Literal[0, 1], limit: int, wanted: str) -> None:
    cut = cut_text(TOKENIZER.encode("abcdé", "123"), number, limit)
    assert TOKENIZER.decode(cut.ids, skip_special_tokens=False) == wanted
    columns = (cut.ids, cut.type_ids, cut.offsets, cut.sequence_ids, cut.special_mask)
    assert {len(column) for column in columns} == {len(cut.ids)}
    assert [kind for kind, special in zip(cut.type_ids, cut.special_mask, strict=True) if not special] == [
        one for one in cut.sequence_ids if one is not None
    ]


def test_a_text_for_many_pairs_keeps_little_more_than_a_model_can_hold() -> None:
    model = TaskModel(name="m", config=BERT, tokenizer=TOKENIZER, max_length=64, vocab_size=512)
    with ThreadPoolExecutor(1) as pool:
        task = Classify(model, Scripted([0.0]), pool)
        texts = ["é" * 9000, "x" * 100, ""]
        first, *others = asyncio.run(shorten(task, texts, "text", truncate=True))
        assert 64 <= 2 * len(first) <= 200, "two tokens a character"
        assert others == texts[1:]
        with pytest.raises(InvalidRequest) as refused:
            asyncio.run(shorten(task, texts, "text"))
        assert (refused.value.param, refused.value.code) == ("text", "too_long")
