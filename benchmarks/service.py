"""One `quartet serve` process on a free port: started, waited for, weighed, stopped."""

import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from tempfile import TemporaryFile
from types import TracebackType
from urllib.error import URLError
from urllib.request import urlopen

import psutil

AS_IF_NEW = ("--no-prefix-cache",)
"""Every round sends the same prompts, which from the second one on would be found computed."""


class Service:
    """A context manager. `seconds_to_ready` runs from the start of the process to the first 200 of /ready."""

    def __init__(
        self, arguments: Sequence[str] = (), timeout: float = 180.0, program: str = "app.cli"
    ) -> None:
        self.port = free_port()
        self._command = [sys.executable, "-m", program, "serve", "--port", str(self.port), *arguments]
        self._timeout = timeout
        self.seconds_to_ready = 0.0

    def __enter__(self) -> "Service":
        start = time.perf_counter()
        self._log = TemporaryFile()  # a pipe that nobody reads would fill up
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=self._log)
        while not self._is_ready():
            if self._process.poll() is not None or time.perf_counter() - start > self._timeout:
                self._process.kill()
                self._process.wait()
                self._log.seek(0)
                raise RuntimeError(
                    f"the service did not start: {self._log.read()[-2000:].decode(errors='replace')}"
                )
            time.sleep(0.01)
        self.seconds_to_ready = time.perf_counter() - start
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def memory(self) -> dict[str, float]:
        """MiB over all its processes: resident (shared pages counted in each) and proportional."""
        root = psutil.Process(self._process.pid)
        full = [process.memory_full_info() for process in [root, *root.children(recursive=True)]]
        return {
            "processes": len(full),
            "resident_mib": sum(info.rss for info in full) / 2**20,
            "proportional_mib": sum(info.pss for info in full) / 2**20,
        }

    def memory_by_process(self) -> dict[str, float]:
        """MiB resident, of the one that clients are connected to and of the engine's, while there is one."""
        api = psutil.Process(self._process.pid)
        found = {"API": api.memory_info().rss / 2**20}
        with suppress(psutil.NoSuchProcess, IndexError):
            found["engine"] = api.children()[0].memory_info().rss / 2**20
        return found

    def processor_seconds(self) -> float:
        """What the process that clients are connected to has used, all of its threads."""
        used = psutil.Process(self._process.pid).cpu_times()
        return float(used.user + used.system)

    def metric(self, name: str) -> float:
        """The sum over all of its labels."""
        with urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=5) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if re.split("[{ ]", line)[0] == name)

    def num_files(self) -> int:
        """Open files of the process that clients are connected to."""
        return psutil.Process(self._process.pid).num_fds()

    def kill_engine(self) -> int:
        """The engine process ends at once, as by the kernel when memory is short; how many there were."""
        children = psutil.Process(self._process.pid).children()
        for child in children:
            child.kill()
        psutil.wait_procs(children)
        return len(children)

    def wait_ready(self) -> None:
        """Returns when /ready says so."""
        while not self._is_ready():
            time.sleep(0.01)

    def _is_ready(self) -> bool:
        try:
            with urlopen(f"http://127.0.0.1:{self.port}/ready", timeout=5) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
