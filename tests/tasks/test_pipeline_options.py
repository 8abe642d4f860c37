"""What the pipelines of `transformers` can be asked beside a text: whole words, targets, languages, prompts, blanks."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.errors import InvalidRequest
from app.tasks.base import cut_ids
from app.tasks.completion import token_texts
from app.tasks.languages import FirstToken, Prefixes
from app.tasks.qa_windows import word_offsets
from app.tasks.spaces import clean_up
from app.tasks.translate import Translate
from model.pooling import read_prompts
from model.tokenization import Tokenizer
from tests.api.folders import byte_tokenizer

MINILM = Tokenizer.from_folder(Path(__file__).parents[2] / "model" / "zoo" / "minilm")
BYTES = Tokenizer(byte_tokenizer(pair_template=True), {})


def test_each_token_has_the_characters_of_its_word() -> None:
    context = "Unaffordability, 1837!"
    pair = MINILM.encode("Unaffordable what?", context)
    spans = word_offsets(pair)
    assert len(spans) == len(pair.ids)
    told = [context[a:b] for (a, b), text in zip(spans, pair.sequence_ids, strict=True) if text == 1]
    assert list(dict.fromkeys(told)) == ["Unaffordability", ",", "1837", "!"]
    assert told.count("Unaffordability") > 1
    assert [span for span, text in zip(spans, pair.sequence_ids, strict=True) if text is None] == [(0, 0)] * 3


@pytest.mark.parametrize(
    ("limit", "side", "kept"),
    [
        (9, "left", [2, 10, 11, 12, 3]),
        (4, "left", [2, 11, 12, 3]),
        (4, "right", [2, 10, 11, 3]),
        (2, "left", [2, 3]),
        (1, "left", [2]),
    ],
)
def test_texts_are_cut_on_either_side_and_keep_their_frame(limit: int, side: Any, kept: list[int]) -> None:
    assert cut_ids([2, 10, 11, 12, 3], frozenset((2, 3)), limit, side) == kept


def test_tokens_add_up_to_the_text_that_they_go_on_with() -> None:
    ids = BYTES.encode("Grüße, 世", add_special_tokens=False).ids
    texts = token_texts(BYTES, ids)
    assert "".join(texts) == "Grüße, 世"
    assert texts[:4] == ["G", "r", "", "ü"]
    assert token_texts(BYTES, ids[:3])[-1] == "\ufffd", "half a character, and no more comes"
    assert token_texts(BYTES, ids[2:4], before=ids[:2]) == ["", "ü"]
    assert token_texts(BYTES, []) == []


def only_target(languages: Any, source: str | None) -> str:
    task = Translate.__new__(Translate)
    task.languages = languages
    return task.only_target(source)


def test_a_target_is_left_out_only_where_there_is_one() -> None:
    pairs = Prefixes("m", {("en", "de"): "", ("fr", "de"): "", ("de", "en"): ""})
    assert only_target(pairs, "en") == "de"
    assert only_target(pairs, "de") == "en"
    assert only_target(FirstToken("m", {"en_XX": 1, "de_DE": 2}, None, "en_XX"), None) == "en_XX"
    for languages in (pairs, FirstToken("m", {"en_XX": 1, "de_DE": 2})):
        with pytest.raises(InvalidRequest, match="say which") as caught:
            only_target(languages, None)
        assert caught.value.param == "target"


def test_prompts_are_read_as_sentence_transformers_publishes_them(tmp_path: Path) -> None:
    assert read_prompts(tmp_path) == {}
    file = tmp_path / "config_sentence_transformers.json"
    for content, prompts in (
        ({}, {}),
        ({"prompts": None}, {}),
        ({"prompts": {"query": "query: ", "broken": 5}}, {"query": "query: "}),
    ):
        file.write_text(json.dumps(content))
        assert read_prompts(tmp_path) == prompts


def test_blanks_before_english_marks_are_taken_out() -> None:
    assert clean_up("Is n't it , it 's so ! We 've 'em . I 'm , you 're ?") == (
        "Isn't it, it's so! We've 'em. I'm, you're?"
    )
    assert clean_up("a ' b") == "a'b"
