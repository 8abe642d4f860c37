"""What the tasks make of encoder-decoder checkpoints: which tasks they offer, and what generation starts from."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from app.errors import InvalidRequest
from app.tasks.classify import Classify
from app.tasks.generate import Generate
from app.tasks.served import read_served
from app.tasks.zero_shot import NliZeroShot
from tests.api.fake_engine import FakeEngine
from tests.api.folders import CONFIGS, write_folder

BART: dict[str, Any] = {
    "model_type": "bart",
    "d_model": 8,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "max_position_embeddings": 64,
    "activation_function": "gelu",
    "eos_token_id": 1,
    "decoder_start_token_id": 1,
}


def generator(folder: Path, config: dict[str, Any], generation: dict[str, Any]) -> Generate:
    write_folder(folder, config)
    (folder / "generation_config.json").write_text(json.dumps(generation))
    served = read_served("it", folder)
    engine = FakeEngine([served])
    [info] = asyncio.run(engine.start()).models
    return Generate(served.task_model(info), engine, ThreadPoolExecutor(1))


def test_a_bart_with_a_classification_head_classifies_and_does_not_write(tmp_path: Path) -> None:
    labels = {"0": "contradiction", "1": "neutral", "2": "entailment"}
    config = BART | {"architectures": ["BartForSequenceClassification"], "id2label": labels}
    served = read_served("mnli", write_folder(tmp_path / "mnli", config))
    assert served.tasks == (Classify, NliZeroShot)
    assert served.config.labels == tuple(labels.values())


def test_the_first_token_is_the_requests_or_the_checkpoints(tmp_path: Path) -> None:
    task = generator(tmp_path / "bart", BART, {"forced_bos_token_id": 9, "bad_words_ids": [[8]]})
    for given, wanted in ((None, 9), (7, 7), ("[SEP]", 3)):
        params = task.options({"forced_bos_token": given}, 0.0).params
        assert (params.forced_bos_token, params.suppress_token_ids) == (wanted, (8,))
    with pytest.raises(InvalidRequest, match="has no token 'de_DE'") as refused:
        task.options({"forced_bos_token": "de_DE"}, 0.0)
    assert refused.value.param == "forced_bos_token"


def test_a_decoder_takes_no_forced_token_and_is_given_none(tmp_path: Path) -> None:
    task = generator(tmp_path / "llama", CONFIGS["writer"], {"forced_bos_token_id": 9})
    assert task.options({}, 0.0).params.forced_bos_token is None
    with pytest.raises(InvalidRequest, match="prompt can end with"):
        task.options({"forced_bos_token": 9}, 0.0)


@pytest.mark.parametrize(
    ("generation", "wanted"),
    [
        ({}, 64),
        ({"max_length": 20}, 19),
        ({"max_length": 20, "forced_bos_token_id": 9}, 18),
        ({"max_length": 20, "max_new_tokens": 30}, 30),
        ({"max_new_tokens": 30, "forced_bos_token_id": 9}, 29),
    ],
)
def test_a_published_length_counts_what_the_decoder_is_given(
    generation: dict[str, Any], wanted: int, tmp_path: Path
) -> None:
    task = generator(tmp_path / "bart", BART, generation)
    [request] = task.plan([[5] * 5], task.options({}, 0.0))
    assert request.params.max_tokens == wanted


def test_a_requests_own_first_token_counts_too(tmp_path: Path) -> None:
    task = generator(tmp_path / "bart", BART, {"max_length": 20})
    [request] = task.plan([[5] * 5], task.options({"forced_bos_token": 9}, 0.0))
    assert request.params.max_tokens == 18


@pytest.mark.parametrize(
    ("config", "generation", "values", "wanted"),
    [
        (BART, {}, {}, 0),
        (BART, {"min_length": 12}, {}, 11),
        (BART, {"min_length": 12, "forced_bos_token_id": 9}, {}, 10),
        (BART, {"min_length": 12}, {"forced_bos_token": 9}, 10),
        (BART, {"min_length": 12, "min_new_tokens": 3}, {}, 3),
        (BART, {"min_new_tokens": 3, "forced_bos_token_id": 9}, {}, 2),
        (BART, {"min_length": 1, "forced_bos_token_id": 9}, {}, 0),
        (BART, {"min_length": 12}, {"max_tokens": 4}, 4),
        (BART, {"min_length": 12}, {"min_tokens": 0}, 0),
        (BART, {"min_length": 12}, {"min_tokens": 5}, 5),
        (CONFIGS["writer"], {"min_length": 12}, {}, 7),
        (CONFIGS["writer"], {"min_length": 4}, {}, 0),
        (CONFIGS["writer"], {"min_new_tokens": 4}, {}, 4),
    ],
    ids=str,
)
def test_a_published_minimum_is_the_default_and_never_over_the_limit(
    config: dict[str, Any], generation: dict[str, Any], values: dict[str, Any], wanted: int, tmp_path: Path
) -> None:
    task = generator(tmp_path / "it", config, generation)
    options = task.options(values, 0.0)
    [request] = task.plan([[5] * 5], options)
    assert request.params.min_tokens == wanted
    assert options.params.min_tokens == values.get("min_tokens", 0), "what stop strings wait for"


def test_a_minimum_over_the_limit_is_refused_where_the_request_says_it(tmp_path: Path) -> None:
    task = generator(tmp_path / "bart", BART, {"max_length": 20})
    with pytest.raises(InvalidRequest) as refused:
        task.plan([[5] * 5], task.options({"min_tokens": 25}, 0.0))
    assert refused.value.param == "min_tokens"
