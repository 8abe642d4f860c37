"""The worked example of docs/training.md, on 200 rows and for a few steps."""

import re
import shlex
from pathlib import Path

import pytest

from app.tasks.served import read_served
from docs.tickets import main as write_tickets
from model.training.__main__ import main

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line)
    for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    for line in block.splitlines()
]


def test_the_example_runs_as_it_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "zoo").symlink_to(ROOT / "model" / "zoo")
    make, check, train, serve, _ = COMMANDS
    assert make[:3] == ["python", "-m", "docs.tickets"]
    monkeypatch.setattr("sys.argv", [*make[2:4], "200"])
    write_tickets()
    assert check[:2] == train[:2] == ["quartet", "train"]
    assert main(check[1:]) == 0
    assert capsys.readouterr().out.startswith("tickets.csv\n  200 rows; columns: text, label = queue\n")
    assert main([*train[1:], "--max-steps", "2", "--test-share", "0.03", "--dev-share", "0.03"]) == 0
    assert f"serve it with:\n  {shlex.join(serve)}" in capsys.readouterr().err
    served = read_served("tickets", tmp_path / "tickets")
    assert served.tasks[0].name == "classify"
    assert served.config.labels == ("account", "billing", "cancellation", "delivery", "product", "returns")
