"""Every example of the pages about the interface runs as it stands, as do those of the OpenAPI description.

The packaged models answer, and two random ones for what none of these can: `assistant` chats, `tagger` labels tokens.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

import model
from app.config import zoo_models
from model.loading import save_model
from tests.api.folders import byte_tokenizer
from tests.api.test_operations import described_requests
from tests.e2e.conftest import Process
from tests.tasks.chat_folders import PUBLISHED, write_tokenizer
from tests.tiny import BERT, LLAMA, random_model

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = ("api", "openai", "huggingface", "libretranslate", "clients")
FENCE = re.compile(r"^(<!-- not run: .+? -->\n)?```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
COMMANDS = {
    "sh": ["sh", "-e", "-c"],
    "python": [sys.executable, "-W", "error", "-c"],
    "js": ["node", "--input-type=module", "-e"],
}
SECONDS = 60
NOT_IN_THE_ZOO = {"chat", "summarize", "ner"}


class Example(NamedTuple):
    page: str
    line: int
    language: str
    code: str


def examples() -> Iterator[Example]:
    for page in PAGES:
        text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
        for found in FENCE.finditer(text):
            is_skipped, language, code = found.groups()
            if is_skipped is None:
                yield Example(page, text.count("\n", 0, found.start()) + 1, language, code)


EXAMPLES = list(examples())


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    zoo = zoo_models(Path(model.__path__[0]) / "zoo")
    models = {one["name"]: one["path"] for one in zoo["models"]}
    root = tmp_path_factory.mktemp("not in the zoo")
    models |= {"assistant": write_assistant(root / "assistant"), "tagger": write_tagger(root / "tagger")}
    flags = [part for name, path in models.items() for part in ("--model", f"{name}={path}")]
    for one in zoo["adapters"]:
        flags += ["--adapter", f"{one['name']}={one['base']}:{one['path']}"]
    process = Process(*flags)
    yield process
    assert process.stop() == 0


def write_assistant(folder: Path) -> Path:
    folder.mkdir()
    size = write_tokenizer(folder, PUBLISHED["chatml"])
    sizes: dict[str, Any] = {
        "vocab_size": size,
        "max_positions": 2048,
        "bos_token_id": None,
        "eos_token_ids": (1,),
    }
    save_model(random_model(LLAMA, dtype=torch.float32, **sizes), folder)
    return folder


def write_tagger(folder: Path) -> Path:
    tokenizer = byte_tokenizer(pair_template=True)
    sizes: dict[str, Any] = {"vocab_size": tokenizer.get_vocab_size(), "max_positions": 256}
    labels = ("O", "B-PER", "I-PER")
    save_model(random_model(BERT, dtype=torch.float32, head="token-class", labels=labels, **sizes), folder)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"cls_token": "[CLS]"}))
    return folder


def test_each_page_has_examples_in_each_language() -> None:
    found = {(one.page, one.language) for one in EXAMPLES}
    wanted = {(page, language) for page in PAGES for language in COMMANDS} - {("clients", "js")}
    assert found == wanted
    assert len(EXAMPLES) >= 60


def test_each_route_that_clients_call_has_an_example() -> None:
    code = "\n".join(one.code for one in EXAMPLES)
    for path in (
        *("generate", "translate", "summarize", "classify", "qa", "ner", "fill-mask", "rerank", "tokenize"),
        *("detokenize", "embeddings", "completions", "chat/completions", "models", "models/translator"),
    ):
        assert f"localhost:8000/v1/{path}" in code
    for path in ("", "translate", "detect", "languages", "frontend/settings", "models/", "pipeline/", "info"):
        assert f"localhost:8000/{path}" in code


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda one: f"{one.page}:{one.line}")
def test_it_runs(service: Process, example: Example) -> None:
    command = COMMANDS[example.language]
    if shutil.which(command[0]) is None:
        pytest.skip(f"needs {command[0]}")
    address = str(service.client.base_url).partition("//")[2].rstrip("/")
    code = example.code.replace("localhost:8000", address)
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    run = subprocess.run(
        [*command, code], capture_output=True, text=True, timeout=SECONDS, check=False, env=environment
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() or ("print" not in code and example.language == "python")
    assert '{"error"' not in run.stdout
    assert "Error" not in run.stderr


def test_the_description_s_examples_are_answered_by_the_packaged_models(zoo: Process) -> None:
    """Or refused, where none of these can do the task."""
    description = zoo.client.get("/openapi.json").json()
    tasks = set(zoo.client.get("/info").json()["default_models"])
    assert not tasks & NOT_IN_THE_ZOO
    refused = set()
    for method, path, body in described_requests(description):
        answer = zoo.client.request(method, path, json=body)
        if answer.status_code != 200:
            assert answer.status_code == 400, (path, answer.text)
            refused.add(path)
    assert refused == {
        "/v1/chat/completions",
        "/models/writer/v1/chat/completions",
        "/v1/ner",
        "/v1/summarize",
        "/pipeline/summarization",
        "/pipeline/token-classification",
    }
    for path in refused:
        body = next(body for _, one, body in described_requests(description) if one == path)
        assert ("no served model can", "cannot chat")["writer" in path] in zoo.client.post(
            path, json=body
        ).text
