"""Keys and hosts on the real service."""

from collections.abc import Callable
from pathlib import Path

import pytest

from app.cli import main
from tests.e2e.conftest import Process


def warnings(process: Process) -> list[str]:
    return [line for line in process.lines if line.startswith("warning")]


def test_keys_made_by_the_command_open_a_service_beyond_this_machine(
    start: Callable[..., Process], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "keys"
    assert main(["key", "new", "app", "--file", str(path)]) == 0
    secret = capsys.readouterr().out.strip()
    process = start("--host", "0.0.0.0", "--api-key-file", str(path))
    assert warnings(process) == []
    assert process.client.get("/ready").status_code == 200
    assert process.client.get("/info", headers={"Host": "any.example"}).status_code == 401
    assert process.client.get("/info", headers={"X-API-Key": secret}).status_code == 200
    assert process.client.get("/admin/trace", headers={"X-API-Key": secret}).status_code == 404
    assert process.stop() == 0
    assert any(" GET /info 200 " in line and " key=app " in line for line in process.lines)
    assert secret not in "".join(process.lines)


def test_without_keys_it_warns_beyond_this_machine(start: Callable[..., Process]) -> None:
    (warning,) = warnings(start("--host", "0.0.0.0"))
    assert "without keys" in warning


def test_on_this_machine_alone_it_answers_to_its_own_names(running: Process) -> None:
    assert warnings(running) == []
    refused = running.client.get("/v1/models", headers={"Host": "evil.example"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (400, "host_not_allowed")
    assert running.client.get("/v1/models", headers={"Host": "localhost:1"}).status_code == 200
