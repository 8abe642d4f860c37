"""The real `quartet serve`, with its engine process, on checkpoints made here."""

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.checkpoints import write_checkpoints

START_SECONDS = 120


class Process:
    """A running service; its stderr is read all the time and kept."""

    def __init__(self, *flags: str) -> None:
        command = [
            sys.executable,
            "-m",
            "app.cli",
            "serve",
            "--port",
            "0",
            "--threads",
            "1",
            "--device",
            "cpu",
            *flags,
        ]
        self.popen = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
        self.lines: list[str] = []
        self._ready = threading.Event()
        self._url = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._ready.wait(START_SECONDS) or not self._url:
            self.popen.kill()
            raise AssertionError("the service did not start:\n" + "".join(self.lines))
        self.client = httpx.Client(base_url=self._url, timeout=60)

    def _read(self) -> None:
        assert self.popen.stderr is not None
        with self.popen.stderr as stream:
            for line in stream:
                self.lines.append(line)
                if line.startswith("ready on "):
                    self._url = line.split()[2]
                    self._ready.set()
        self._ready.set()

    def worker(self) -> psutil.Process:
        """The engine process."""
        (child,) = psutil.Process(self.popen.pid).children()
        return child

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that have these labels."""
        families = text_string_to_metric_families(self.client.get("/metrics").text)
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return sum(s.value for s in samples if labels.items() <= s.labels.items())

    def wait_until(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        """Asks again and again: what is awaited happens in other processes."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "did not happen in time:\n" + "".join(self.lines[-20:])
            time.sleep(0.02)

    def stop(self) -> int:
        """SIGTERM; the exit code."""
        self.client.close()
        self.popen.send_signal(signal.SIGTERM)
        code = self.popen.wait(timeout=60)
        self._reader.join(timeout=10)
        return code


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return write_checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture(scope="session")
def flags(checkpoints: dict[str, Path]) -> list[str]:
    """All checkpoints, and a small cache."""
    models = [part for name, path in checkpoints.items() for part in ("--model", f"{name}={path}")]
    return [*models, "--kv-cache-memory", str(16 << 20)]


@pytest.fixture(scope="module")
def running(flags: list[str]) -> Iterator[Process]:
    process = Process(*flags)
    yield process
    if process.popen.poll() is None:
        assert process.stop() == 0


@pytest.fixture(scope="session")
def zoo() -> Iterator[Process]:
    """What `quartet serve` serves without any flag; for tests that only ask."""
    process = Process()
    yield process
    assert process.stop() == 0


@pytest.fixture
def start(flags: list[str]) -> Iterator[Callable[..., Process]]:
    """Starts services of a test's own."""
    started: list[Process] = []

    def start_one(*more: str) -> Process:
        started.append(Process(*flags, *more))
        return started[-1]

    yield start_one
    for process in started:
        process.client.close()
        if process.popen.poll() is None:
            process.popen.kill()
            process.popen.wait(timeout=30)
