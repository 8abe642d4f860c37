"""Which checkpoints summarize, and what they generate with: the summarization pipeline's rules."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from app.errors import InvalidRequest
from app.tasks.base import Usage
from app.tasks.served import read_served
from app.tasks.summarize import Summarize
from model.config import CheckpointError
from tests.api.fake_engine import FakeEngine
from tests.api.folders import CONFIGS, write_folder
from tests.tasks.test_encoder_decoders import BART

T5 = {key: value for key, value in CONFIGS["translator"].items() if key != "task_specific_params"}
PEGASUS = BART | {"model_type": "pegasus", "architectures": ["PegasusForConditionalGeneration"]}
CNN: dict[str, Any] = {"early_stopping": True, "length_penalty": 2.0, "max_length": 42, "min_length": 16}
CNN |= {"no_repeat_ngram_size": 3, "num_beams": 6, "prefix": "summarize: "}


def for_task(config: dict[str, Any], params: dict[str, Any]) -> dict[str, Any]:
    return config | {"task_specific_params": {"summarization": params}}


def summarizer(
    folder: Path, config: dict[str, Any], generation: dict[str, Any] | None = None
) -> tuple[Summarize, FakeEngine]:
    write_folder(folder, config)
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    served = read_served("it", folder)
    engine = FakeEngine([served])
    [info] = asyncio.run(engine.start()).models
    return Summarize(served.task_model(info), engine, ThreadPoolExecutor(1)), engine


@pytest.mark.parametrize(
    ("config", "tasks"),
    [
        (BART, ["generate"]),
        (BART | {"min_length": 0}, ["generate"]),
        (BART | {"min_length": 11}, ["summarize", "generate"]),
        (for_task(BART, CNN), ["summarize", "generate"]),
        (PEGASUS, ["summarize", "generate"]),
        (T5 | {"min_length": 11}, ["generate"]),
        (for_task(T5, {}), ["summarize", "generate"]),
        (
            T5
            | {
                "task_specific_params": CONFIGS["translator"]["task_specific_params"] | {"summarization": CNN}
            },
            ["translate", "summarize", "generate"],
        ),
    ],
)
def test_which_checkpoints_are_made_for_summaries(
    config: dict[str, Any], tasks: list[str], tmp_path: Path
) -> None:
    served = read_served("it", write_folder(tmp_path / "it", config))
    assert [task.name for task in served.tasks] == tasks


@pytest.mark.parametrize(
    ("params", "generation", "wanted"),
    [
        # max_tokens, min_tokens, num_beams, length_penalty, no_repeat_ngram_size
        ({}, {}, (64, 0, 4, 1.0, 0)),
        ({}, {"max_length": 30, "num_beams": 2, "length_penalty": 0.5}, (29, 0, 2, 0.5, 0)),
        ({}, {"max_new_tokens": 30}, (30, 0, 4, 1.0, 0)),
        (CNN, {"max_length": 30, "num_beams": 2, "min_length": 3}, (41, 15, 6, 2.0, 3)),
        (CNN, {"max_length": 30, "forced_bos_token_id": 9}, (40, 14, 6, 2.0, 3)),
        # a length of the task alone does not take the pipeline's own 256 away, here cut to the room there is
        (CNN, {}, (64, 15, 6, 2.0, 3)),
        (CNN | {"max_new_tokens": 8, "min_length": 2}, {}, (8, 1, 6, 2.0, 3)),
        (CNN | {"num_beams": 1}, {"max_length": 30}, (41, 15, 1, 1.0, 3)),
    ],
)
def test_what_is_published_for_the_task_goes_first(
    params: dict[str, Any], generation: dict[str, Any], wanted: tuple[Any, ...], tmp_path: Path
) -> None:
    task, _ = summarizer(tmp_path / "it", for_task(BART, params), generation)
    options = task.options({}, temperature=0.0)
    [request] = asyncio.run(task.prepare(["a text"], options, truncate=False))
    got = request.params
    penalty = got.length_penalty if got.num_beams > 1 else 1.0
    assert (
        got.max_tokens,
        got.min_tokens,
        got.num_beams,
        penalty,
        got.no_repeat_ngram_size,
    ) == wanted
    assert got.early_stopping is bool(params)


def test_a_request_s_own_parameters_go_before_all(tmp_path: Path) -> None:
    task, _ = summarizer(tmp_path / "it", for_task(BART, CNN))
    values = {"max_tokens": 9, "min_tokens": 2, "num_beams": 1, "no_repeat_ngram_size": 0}
    [request] = asyncio.run(task.prepare(["a text"], task.options(values, 0.0), truncate=False))
    params = request.params
    assert (params.max_tokens, params.min_tokens, params.num_beams, params.no_repeat_ngram_size) == (
        9,
        2,
        1,
        0,
    )


@pytest.mark.parametrize(
    ("config", "prefix"),
    [
        (for_task(T5, CNN), "summarize: "),
        (for_task(T5, {"num_beams": 2}) | {"prefix": "tl;dr "}, "tl;dr "),
        (for_task(T5, CNN) | {"prefix": "tl;dr "}, "summarize: "),
        (for_task(T5, {}), ""),
    ],
)
def test_the_words_before_a_text(config: dict[str, Any], prefix: str, tmp_path: Path) -> None:
    task, engine = summarizer(tmp_path / "it", config)
    options = task.options({"max_tokens": 4}, temperature=0.0)
    summaries = asyncio.run(task.summarize(["One. Two."], options, Usage()))
    assert len(summaries[0]) == 1
    [source] = engine.prompts()
    assert task.model.tokenizer.decode(source) == prefix + "One. Two."


def test_a_text_that_is_too_long_is_refused_or_cut(tmp_path: Path) -> None:
    task, engine = summarizer(tmp_path / "it", for_task(BART, {}))
    options = task.options({"max_tokens": 4}, temperature=0.0)
    fits, over = "x" * 64, "x" * 64 + "y"
    with pytest.raises(InvalidRequest, match="65 tokens") as refused:
        asyncio.run(task.summarize([over], options, Usage()))
    assert (refused.value.param, refused.value.code) == ("text", "too_long")
    asyncio.run(task.summarize([fits], options, Usage()))
    asyncio.run(task.summarize([over], options, Usage(), truncate=True))
    assert engine.prompts()[0] == engine.prompts()[1]


def test_a_wrong_value_for_the_task_is_told_by_file_and_key(tmp_path: Path) -> None:
    config = for_task(BART, {"num_beams": "four"})
    with pytest.raises(CheckpointError, match=r"config\.json: num_beams must be an integer"):
        read_served("it", write_folder(tmp_path / "it", config))
