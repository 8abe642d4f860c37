"""Starting wrong, being full, losing the engine, stopping."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.conftest import Process

ENDLESS = {"prompt": "Go on", "max_tokens": 1800, "ignore_eos": True, "stream": True}


def run_cli(*arguments: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "app.cli", "serve", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_wrong_use_is_one_line_and_exit_code_2(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        for arguments, word in (
            (["--model", "a"], "NAME=PATH"),
            (["--model", "a=/nowhere"], "/nowhere"),
            (["--model", f"a={broken}"], "config.json"),
            (["--config", str(tmp_path / "none.toml")], "none.toml"),
            (["--api-key-file", str(tmp_path / "none.txt")], "none.txt"),
            (["--model", f"a={checkpoints['mood']}", "--port", port], port),
        ):
            run = run_cli(*arguments)
            assert run.returncode == 2, run.stderr
            assert run.stderr.count("\n") == 1
            assert word in run.stderr


def test_broken_weights_are_one_line_and_exit_code_2(tmp_path: Path, checkpoints: dict[str, Path]) -> None:
    folder = tmp_path / "cut"
    folder.mkdir()
    for file in checkpoints["mood"].iterdir():
        content = file.read_bytes()
        (folder / file.name).write_bytes(content[:1000] if file.suffix == ".safetensors" else content)
    run = run_cli("--model", f"cut={folder}", "--port", "0", "--device", "cpu")
    assert run.returncode == 2, run.stderr
    assert "Traceback" not in run.stderr


def test_a_full_queue_says_when_to_come_back(start: Callable[..., Process]) -> None:
    process = start("--max-queue-requests", "1")
    with process.client.stream("POST", "/v1/generate", json=ENDLESS) as response:
        lines = response.iter_lines()  # kept: httpx hangs up when it is dropped
        next(lines)
        refused = process.client.post("/v1/classify", json={"text": "one"})
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json()["error"]["type"] == "overloaded_error"
    process.wait_until(lambda: process.client.post("/v1/classify", json={"text": "one"}).status_code == 200)
    assert process.metric("quartet_rejected_total", reason="queue_full") >= 1
    assert process.stop() == 0


def test_a_killed_engine_costs_its_clients_a_pause(start: Callable[..., Process]) -> None:
    process = start()
    with process.client.stream("POST", "/v1/generate", json=ENDLESS) as response:
        lines = response.iter_lines()
        next(lines)
        process.worker().kill()
        events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    assert json.loads(events[-2])["usage"]["completion_tokens"] == ENDLESS["max_tokens"]
    assert process.client.get("/ready").status_code == 200
    assert process.metric("quartet_engine_restarts_total") == 1
    assert process.metric("quartet_engine_up") == 1
    assert process.stop() == 0


def test_sigterm_lets_work_finish(start: Callable[..., Process]) -> None:
    process = start()
    with process.client.stream("POST", "/v1/generate", json=ENDLESS) as response:
        lines = response.iter_lines()
        next(lines)
        process.popen.send_signal(signal.SIGTERM)
        process.wait_until(lambda: process.client.get("/ready").status_code == 503)
        refused = process.client.post("/v1/classify", json={"text": "one"})
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        assert [line for line in lines if line.startswith("data: ")][-1] == "data: [DONE]"
    assert process.popen.wait(timeout=60) == 0


def test_a_second_signal_does_not_wait(start: Callable[..., Process]) -> None:
    process = start("--drain-timeout", "300")
    worker = process.worker()
    with process.client.stream("POST", "/v1/generate", json=ENDLESS) as response:
        lines = response.iter_lines()
        next(lines)
        process.popen.send_signal(signal.SIGTERM)
        process.wait_until(lambda: process.client.get("/ready").status_code == 503)
        process.popen.send_signal(signal.SIGINT)
        last = [line for line in lines if line.startswith("data: ")][-1]
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "draining"
    assert process.popen.wait(timeout=60) == 0
    assert not worker.is_running()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_service_stops_at_once(start: Callable[..., Process], number: signal.Signals) -> None:
    process = start("--log-format", "json")
    process.client.post("/v1/classify", json={"text": "one"}, headers={"X-Request-ID": "my-id"})
    process.popen.send_signal(number)
    assert process.popen.wait(timeout=30) == 0
    process._reader.join(timeout=10)
    lines = [json.loads(line) for line in process.lines if line.startswith("{")]
    (mine,) = [line for line in lines if line["request_id"] == "my-id"]
    assert (mine["level"], mine["task"], mine["model"]) == ("info", "classify", "mood")
