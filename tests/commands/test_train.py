"""`quartet train` hands everything over, and says what is missing before it does."""

import os
from typing import Any

import pytest

from app import cli
from app.commands import train


def test_every_word_goes_to_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[str]] = []

    def become(file: str, words: list[str]) -> None:
        seen.append([file, *words])
        raise SystemExit(0)

    monkeypatch.setattr(os, "execv", become)
    words = [
        "--task",
        "qa",
        "--lora",
        "--data",
        "my file.csv",
        "--help",
        "-5",
        "--model",
        "x=y",
        "--config=z",
    ]
    with pytest.raises(SystemExit):
        cli.main(["train", *words])
    assert seen == [[train.COMMAND[0], *train.COMMAND, *words]]


def test_without_the_extra_one_line_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def find(name: str) -> Any:
        return None if name == "sacrebleu" else object()

    monkeypatch.setattr(train, "find_spec", find)
    assert cli.main(["train", "--check"]) == cli.USAGE_ERROR
    told = capsys.readouterr().err
    assert told.startswith("quartet: training needs the extra `train` (sacrebleu is not installed)")
