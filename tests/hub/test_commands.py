"""`quartet download` as a process: the folder on stdout, a bar on a terminal, one line for a failure."""

import os
import pty
import subprocess
import sys
import termios
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.hub.server import Hub, Repository, running_hub
from tests.hub.test_download import PLAIN, SMALL, WEIGHTS, contents


@pytest.fixture
def hub() -> Iterator[Hub]:
    with running_hub() as running:
        yield running


def environment(hub: Hub, home: Path) -> dict[str, str]:
    """Of a process that knows this hub and no other."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    return kept | {"HF_ENDPOINT": hub.url, "HF_HOME": str(home)}


def quartet(
    *arguments: str, env: Mapping[str, str], stderr: int = subprocess.PIPE
) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "app.cli", *arguments]
    return subprocess.run(
        command, stdout=subprocess.PIPE, stderr=stderr, text=True, timeout=60, env=env, check=False
    )


def test_download_prints_the_folder_and_a_bar_for_people(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["org/plain"] = Repository({"v1": PLAIN})
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    run = quartet("download", "org/plain@v1", env=environment(hub, tmp_path), stderr=theirs)
    seen = os.read(ours, 100_000).decode()
    os.close(theirs)
    os.close(ours)
    assert run.returncode == 0, seen
    folder = Path(run.stdout.removesuffix("\n"))
    assert folder.is_relative_to(tmp_path / "hub")
    assert contents(folder) == SMALL | {"model.safetensors": WEIGHTS}
    assert "org/plain@v1: 8 files" in seen
    assert "8/8" in seen
    assert "10.3kB / 10.3kB" in seen


def test_download_keeps_what_it_fetches_where_the_service_looks_for_it(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["org/plain"] = Repository({"v1": PLAIN})
    env = environment(hub, tmp_path) | {"QUARTET_CACHE_DIR": str(tmp_path / "cache")}
    del env["HF_HOME"]
    run = quartet("download", "org/plain@v1", env=env)
    assert run.returncode == 0, run.stderr
    assert Path(run.stdout.strip()).is_relative_to(tmp_path / "cache" / "huggingface" / "hub")
    assert "warning" not in run.stderr
    (tmp_path / "taken").touch()
    run = quartet("download", "org/plain@v1", env=env | {"QUARTET_CACHE_DIR": str(tmp_path / "taken")})
    assert f"warning: --cache-dir {tmp_path / 'taken'} cannot be written" in run.stderr


def test_download_to_a_folder_and_failures(hub: Hub, tmp_path: Path) -> None:
    hub.repositories["org/plain"] = Repository({"main": PLAIN})
    env = environment(hub, tmp_path / "home")
    run = quartet("download", "org/plain", "--to", str(tmp_path / "to"), env=env)
    assert (run.returncode, run.stdout) == (0, f"{tmp_path / 'to'}\n")
    assert contents(tmp_path / "to")["model.safetensors"] == WEIGHTS
    for arguments in (["download", "org/none"], ["serve", "--model", "a=org/none", "--port", "0"]):
        run = quartet(*arguments, env=env)
        assert (run.returncode, run.stdout, run.stderr.count("\n")) == (2, "", 1)
        assert "org/none: no folder here" in run.stderr
    offline = quartet("download", "org/none", env=env | {"HF_HUB_OFFLINE": "1"})
    assert offline.returncode == 2
    assert "HF_HUB_OFFLINE forbids" in offline.stderr
