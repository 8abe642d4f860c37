"""From a request's fields to the engine's constraint."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from app.engine.protocol import MAX_CONSTRAINT_BYTES, Constraint
from app.errors import InvalidRequest
from app.tasks.constraints import make_constraint
from app.tasks.generate import Generate
from app.tasks.sampling import make_options
from app.tasks.served import read_served
from model.generation_config import GenerationConfig
from tests.api.fake_engine import FakeEngine
from tests.api.folders import CONFIGS, write_folder


@pytest.mark.parametrize(
    ("values", "constraint"),
    [
        ({}, None),
        ({"json_schema": None, "regex": None, "temperature": 1.0}, None),
        ({"json_schema": {"b": 1, "a": {}}}, Constraint("json_schema", '{"b": 1, "a": {}}', "json_schema")),
        ({"response_format": {}}, Constraint("json_schema", "{}", "response_format")),
        ({"regex": "a+", "num_beams": 1}, Constraint("regex", "a+", "regex")),
        ({"choice": ["é", "b"]}, Constraint("choice", '["\\u00e9", "b"]', "choice")),
        ({"grammar": 'start: "a"'}, Constraint("grammar", 'start: "a"', "grammar")),
    ],
)
def test_a_request_has_one_constraint_or_none(values: dict[str, Any], constraint: Constraint | None) -> None:
    options = make_options(values, GenerationConfig(), temperature=0.0, vocab_size=10)
    assert options.constraint == constraint


def deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(levels):
        schema = {"items": schema}
    return schema


@pytest.mark.parametrize(
    ("given", "param", "words"),
    [
        ({"regex": "a", "choice": ["a"]}, "choice", "together with regex"),
        ({"json_schema": {}, "response_format": {}}, "response_format", "together with json_schema"),
        ({"grammar": "x", "json_schema": {}, "regex": "a"}, "regex", "together with json_schema"),
        ({"regex": "a", "num_beams": 4}, "regex", "num_beams"),
        ({"response_format": {}, "num_beams": 2}, "response_format", "num_beams"),
        ({"regex": "a" * (MAX_CONSTRAINT_BYTES + 1)}, "regex", str(MAX_CONSTRAINT_BYTES)),
        ({"choice": ["é" * MAX_CONSTRAINT_BYTES]}, "choice", str(MAX_CONSTRAINT_BYTES)),
        ({"json_schema": {"enum": ["a" * 1000] * 1000}}, "json_schema", str(MAX_CONSTRAINT_BYTES)),
        ({"json_schema": deep(20_000)}, "json_schema", "nested"),
    ],
)
def test_what_is_refused_names_its_field(given: dict[str, Any], param: str, words: str) -> None:
    with pytest.raises(InvalidRequest, match=words) as refused:
        make_constraint(given)
    assert refused.value.param == param


def test_a_schema_keeps_the_order_of_its_properties() -> None:
    schema = {"properties": {"z": {}, "a": {}}, "required": ["z"]}
    made = make_constraint({"json_schema": schema})
    assert made is not None
    assert list(json.loads(made.text)["properties"]) == ["z", "a"]


@pytest.mark.parametrize(
    ("name", "prompt", "opens"),
    [
        ("translator", [100, 101], True),
        ("writer", [100, 101], False),
        ("writer", [100, 1, 1, 1], False),
        ("writer", [100, 1, 1, 1, 1], True),
        ("writer", [2], True),
    ],
)
def test_the_engine_is_told_whether_the_text_is_the_first_that_is_decoded(
    tmp_path: Path, name: str, prompt: list[int], opens: bool
) -> None:
    """As the detokenizer does it: behind the last tokens of a decoder's prompt, some of which decode to nothing."""
    served = read_served(name, write_folder(tmp_path / name, CONFIGS[name]))
    engine = FakeEngine([served])
    [info] = asyncio.run(engine.start()).models
    task = Generate(served.task_model(info), engine, ThreadPoolExecutor(1))
    options = task.options({"regex": "a+", "n": 2, "max_tokens": 4}, 0.0)
    planned = [request.constraint for request in task.plan([prompt], options)]
    assert planned == [Constraint("regex", "a+", "regex", opens_text=opens)] * 2
    free = task.options({"max_tokens": 4}, 0.0)
    assert [request.constraint for request in task.plan([prompt], free)] == [None]
