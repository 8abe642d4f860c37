"""Templates: what is built in, what models.toml may say instead, and that a wrong one is told in one line."""

import tomllib
from pathlib import Path

import pytest

from app.config import load_settings
from app.errors import ConfigError
from app.metrics import Metrics
from app.registry import build_registry
from app.tasks.prompts import BUILT_IN, PROMPTS, make_prompts
from tests.api.folders import CONFIGS, write_folder

DEPLOYED = Path(__file__).parents[2] / "deploy" / "models.toml"


def test_the_deployed_file_shows_what_is_built_in() -> None:
    assert tomllib.loads(DEPLOYED.read_text(encoding="utf-8"))["prompts"] == BUILT_IN


def test_what_is_built_in_passes_as_one_s_own() -> None:
    prompts = make_prompts({}, BUILT_IN, "m")
    assert prompts.templates == BUILT_IN
    assert prompts.own == set(BUILT_IN)
    assert make_prompts(BUILT_IN, {}, "m") == PROMPTS


def test_places_are_filled_once_and_braces_stay() -> None:
    prompts = make_prompts({}, {"summarize": "{{json}} {text} {{text}}"}, "m")
    assert prompts.fill("summarize", text="a {text} and {0} and }") == "{json} a {text} and {0} and } {text}"


def test_a_model_s_own_go_before_those_for_all() -> None:
    prompts = make_prompts(
        {"summarize": "all: {text}", "qa": "{question}{context}"}, {"summarize": "{text}"}, "m"
    )
    assert prompts.templates == {**BUILT_IN, "summarize": "{text}", "qa": "{question}{context}"}
    assert prompts.own == {"summarize"}


@pytest.mark.parametrize(
    ("name", "template", "message"),
    [
        (
            "rerank",
            "{text}",
            "no task has a prompt 'rerank'; known: translate, summarize, classify, qa, qa_or_none",
        ),
        ("summarize", "Shorter, please.", "summarize needs the place {text}"),
        ("translate", "{text} in {source}", "translate needs the place {target}"),
        ("classify", "{labels}", "classify needs the place {text}"),
        ("qa", "{question}", "qa needs the place {context}"),
        ("qa_or_none", "{question} {context}", "qa_or_none needs the place {no_answer}"),
        ("summarize", "{text} {question}", "summarize has no place {question}, only {text}"),
        ("summarize", "{text} {}", "summarize has no place {}, only {text}"),
        ("summarize", "{text.__class__}", "summarize has no place {text.__class__}, only {text}"),
        ("summarize", "{text[0]}", "summarize has no place {text[0]}, only {text}"),
        ("summarize", "{text!r}", "summarize has no place {text!r}, only {text}"),
        ("summarize", "{text:>99}", "summarize has no place {text:>99}, only {text}"),
        ("summarize", "{text} {", "a brace that is meant as such is written twice"),
        ("summarize", "{text} }", "a brace that is meant as such is written twice"),
        ("summarize", "{text}" + "x" * 10_000, "summarize is over 10000 characters"),
    ],
)
@pytest.mark.parametrize("is_own", [True, False])
def test_a_wrong_template_is_told_in_one_line(
    name: str, template: str, message: str, is_own: bool, tmp_path: Path
) -> None:
    """At the start, with the table that it stands in."""
    folder = write_folder(tmp_path / "writer", CONFIGS["writer"])
    table = "models.mine.prompts" if is_own else "prompts"
    file = tmp_path / "models.toml"
    file.write_text(f"[models.mine]\npath = \"{folder}\"\n[{table}]\n{name} = '''{template}'''\n")
    settings = load_settings({"config": file}, {})
    with pytest.raises(ConfigError) as refused:
        build_registry(settings, Metrics("test"), "test")
    assert str(refused.value).startswith(f"[{table}]: ")
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("table", ["prompts", "models.mine.prompts"])
def test_a_template_is_a_text(table: str, tmp_path: Path) -> None:
    file = tmp_path / "models.toml"
    file.write_text(f'[models.mine]\npath = "{tmp_path}"\n[{table}]\nqa = 3\n')
    with pytest.raises(ConfigError, match=r"prompts\.qa: Input should be a valid string"):
        load_settings({"config": file}, {})
