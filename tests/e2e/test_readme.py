"""The README's curls against the real service on the packaged zoo: what is printed there is what comes back."""

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Process

README = Path(__file__).resolve().parents[2] / "README.md"
PAIRS = re.findall(r"```sh\n(curl .*?)```\n+```json\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_there_are_four_of_them() -> None:
    paths = [re.search(r"localhost:8000(\S+)", command) for command, _ in PAIRS]
    assert [path and path[1] for path in paths] == ["/v1/generate", "/v1/translate", "/v1/classify", "/v1/qa"]


@pytest.mark.parametrize(("command", "told"), PAIRS, ids=[command.split()[2] for command, _ in PAIRS])
def test_curl_answers_as_told(command: str, told: str, zoo: Process) -> None:
    url = str(zoo.client.base_url).rstrip("/")
    arguments = shlex.split(command.replace("\\\n", " ").replace("localhost:8000", url))
    run = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=60)
    assert_alike(json.loads(run.stdout), json.loads(told))


def assert_alike(answer: Any, told: Any) -> None:
    """Equal, but for the last digits of numbers, which hang on the processor."""
    if isinstance(told, float):
        assert answer == pytest.approx(told, abs=0.02)
    elif isinstance(told, dict):
        assert answer.keys() == told.keys()
        for key in told:
            assert_alike(answer[key], told[key])
    elif isinstance(told, list):
        assert len(answer) == len(told)
        for one, other in zip(answer, told, strict=True):
            assert_alike(one, other)
    else:
        assert answer == told
