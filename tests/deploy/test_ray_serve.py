"""Ray itself with two replicas, their engines and two doors: `make test-ray` has what it takes.

The tests are one story: what comes later finds what came before.
"""

import json
import os
import shutil
import socket
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.checkpoints import write_checkpoints

ray = pytest.importorskip("ray")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Ray's own
    from ray import serve

    from deploy.ray.serving import Options, application

pytestmark = [pytest.mark.ray, pytest.mark.filterwarnings("ignore"), pytest.mark.timeout(400)]

WITHIN = 90.0
PLAIN = {"model": "writer", "max_tokens": 24, "ignore_eos": True}
STREAM = PLAIN | {"max_tokens": 150, "stream": True}


class Cluster:
    """One machine's Ray; `deploy` brings a version of the application onto it."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = httpx.Client(base_url=url, timeout=60)

    def deploy(self, **settings: str) -> None:
        for name, value in settings.items():
            os.environ[f"QUARTET_{name.upper()}"] = value
        options = Options(min_replicas=2, max_replicas=2, num_cpus=0.2)
        serve.run(application(options), name="quartet")

    def generate(self, prompt: str) -> httpx.Response:
        return self.client.post("/v1/generate", json=PLAIN | {"prompt": prompt})

    def metric(self, name: str, **labels: str) -> dict[str, float]:
        """By replica."""
        families = text_string_to_metric_families(self.client.get("/metrics").text)
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return {s.labels["replica"]: s.value for s in samples if labels.items() <= s.labels.items()}

    def names(self) -> set[str]:
        return set(self.metric("quartet_engine_up"))


def replica_processes() -> list[psutil.Process]:
    """Those with an engine, of this test's own Ray."""
    ours = psutil.Process().children(recursive=True)
    return [process for process in ours if process.name().startswith("ray::ServeRepli") and engines(process)]


def engines(replica: psutil.Process) -> list[psutil.Process]:
    return [child for child in replica.children() if "app.engine.worker" in child.cmdline()]


def wait_until(condition: Callable[[], bool]) -> None:
    """Asks again and again: what is awaited happens in other processes."""
    end = time.monotonic() + WITHIN
    while not condition():
        assert time.monotonic() < end, "did not happen in time"
        time.sleep(0.1)


class Traffic:
    """Clients that ask without a pause, by turns for streams and for whole answers; what became of each."""

    def __init__(self, url: str, num_clients: int = 4) -> None:
        self.outcomes: Counter[str] = Counter()
        self.replicas: set[str] = set()
        self._url = url
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._pool = ThreadPoolExecutor(num_clients)
        self._clients = [self._pool.submit(self._ask, number) for number in range(num_clients)]

    def __enter__(self) -> "Traffic":
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._pool.shutdown()
        for client in self._clients:
            client.result()

    def wait_for_more(self, num: int) -> None:
        wanted = self.outcomes.total() + num
        wait_until(lambda: self.outcomes.total() >= wanted)

    def _ask(self, number: int) -> None:
        with httpx.Client(base_url=self._url, timeout=60) as client:
            turn = number
            while not self._stopped.is_set():
                turn += 1
                body = (STREAM if turn % 2 else PLAIN) | {"prompt": f"{number} {turn % 8}", "seed": turn}
                outcome = self._outcome(client, body)
                with self._lock:
                    self.outcomes[outcome] += 1

    def _outcome(self, client: httpx.Client, body: dict[str, Any]) -> str:
        kind = "stream" if "stream" in body else "plain"
        try:
            answer = client.post("/v1/generate", json=body)
        except httpx.HTTPError as error:
            return f"{kind}: {type(error).__name__}"
        self.replicas.add(answer.headers.get("x-replica", ""))
        if answer.status_code != 200:
            return f"{kind}: {answer.status_code} {answer.text[:200]}"
        if kind == "plain":
            return "plain ok" if answer.json()["usage"]["completion_tokens"] == 24 else "plain: short"
        events = answer.text.rstrip().split("\n\n")
        if events[-1] == "data: [DONE]":
            usage = json.loads(events[-2].removeprefix("data: "))["usage"]
            return "stream ok" if usage["completion_tokens"] == 150 else "stream: short"
        return f"stream: {json.loads(events[-1].removeprefix('data: '))['error']['code']}"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    folder = write_checkpoints(tmp_path_factory.mktemp("models"))["writer"]
    temporary = tempfile.mkdtemp(prefix="ray", dir="/tmp")  # its sockets' paths must be short
    before = dict(os.environ)
    os.environ |= {
        "QUARTET_MODEL": f"writer={folder}",
        "QUARTET_DEVICE": "cpu",
        "QUARTET_THREADS": "1",
        "QUARTET_HANG_TIMEOUT": "60",
        "RAY_AUTH_MODE": "disabled",
        "RAY_TMPDIR": temporary,
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    try:
        ray.init(
            num_cpus=2,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=128 << 20,
            _node_ip_address="127.0.0.1",
            _temp_dir=temporary,
        )
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        running = Cluster(f"http://127.0.0.1:{port}")
        running.deploy()
        yield running
        running.client.close()
    finally:
        serve.shutdown()
        ray.shutdown()
        os.environ.clear()
        os.environ |= before
        shutil.rmtree(temporary, ignore_errors=True)


def test_one_prefix_has_one_replica(cluster: Cluster) -> None:
    beginnings = [f"{number}. You answer in verse. " * 12 for number in range(12)]
    seen = {}
    for beginning in beginnings:
        answers = [cluster.generate(f"{beginning}Question {number}") for number in range(4)]
        assert {answer.status_code for answer in answers} == {200}
        seen[beginning] = {answer.headers["x-replica"] for answer in answers}
        assert len(seen[beginning]) == 1
    assert len(set.union(*seen.values())) == 2
    cached = cluster.metric("quartet_tokens_total", kind="cached")
    assert len(cached) == 2
    assert min(cached.values()) > 0


def test_streams_and_faults_are_as_without_ray(cluster: Cluster) -> None:
    with cluster.client.stream("POST", "/v1/generate", json=STREAM | {"prompt": "Hi"}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers.get_list("x-request-id") == [answer.headers["x-request-id"]]
        pieces = list(answer.iter_text())
    assert len(pieces) > 3
    assert "".join(pieces).endswith("data: [DONE]\n\n")
    refused = cluster.client.post("/v1/generate", json={"prompt": "Hi", "max_tokens": "many"})
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "max_tokens")
    assert cluster.client.get("/ready").json() == {"status": "ready", "reasons": []}
    assert cluster.client.get("/admin/adapters").status_code == 404


def test_who_leaves_ends_the_work(cluster: Cluster) -> None:
    before = sum(cluster.metric("quartet_requests_total", task="generate", outcome="aborted").values())
    long = STREAM | {"prompt": "Hi", "max_tokens": 1500}
    with cluster.client.stream("POST", "/v1/generate", json=long) as answer:
        next(answer.iter_text())

    def is_aborted() -> bool:
        counts = cluster.metric("quartet_requests_total", task="generate", outcome="aborted")
        return sum(counts.values()) == before + 1

    wait_until(is_aborted)
    assert sum(cluster.metric("quartet_requests_running").values()) == 0


def test_a_new_version_comes_without_an_error(cluster: Cluster) -> None:
    old = cluster.names()
    with Traffic(cluster.url) as traffic:
        traffic.wait_for_more(20)
        cluster.deploy(token_budget="1024")
        traffic.wait_for_more(20)
        wait_until(lambda: len(cluster.names()) == 2 and not cluster.names() & old)
        traffic.wait_for_more(20)
    assert set(traffic.outcomes) == {"plain ok", "stream ok"}, traffic.outcomes
    assert traffic.replicas & old
    assert traffic.replicas - old


def test_a_killed_replica_costs_its_open_streams_alone(cluster: Cluster) -> None:
    old = cluster.names()
    with Traffic(cluster.url) as traffic:
        traffic.wait_for_more(20)
        replica_processes()[0].kill()
        traffic.wait_for_more(40)
        wait_until(lambda: len(cluster.names()) == 2 and cluster.names() != old)
        traffic.wait_for_more(20)
    lost = traffic.outcomes.pop("stream: replica_lost", 0)
    assert set(traffic.outcomes) == {"plain ok", "stream ok"}, traffic.outcomes
    assert lost <= 4  # no more than were open


def test_a_killed_engine_costs_nothing(cluster: Cluster) -> None:
    old = cluster.names()
    with Traffic(cluster.url) as traffic:
        traffic.wait_for_more(20)
        for replica in replica_processes():
            for engine in engines(replica):
                engine.kill()
        traffic.wait_for_more(40)
    assert set(traffic.outcomes) == {"plain ok", "stream ok"}, traffic.outcomes
    assert cluster.names() == old


def test_a_replica_whose_engine_cannot_be_kept_alive_is_replaced(cluster: Cluster) -> None:
    old = cluster.names()
    replica = replica_processes()[0]
    stopped = threading.Event()

    def kill_engines() -> None:
        while not stopped.is_set() and replica.is_running():
            for engine in engines(replica):
                engine.kill()
            time.sleep(0.02)

    with ThreadPoolExecutor(1) as pool:
        killing = pool.submit(kill_engines)
        try:
            wait_until(lambda: not replica.is_running() or replica.status() == psutil.STATUS_ZOMBIE)
        except psutil.NoSuchProcess:
            pass
        finally:
            stopped.set()
        assert not isinstance(killing.exception(), AssertionError)
    wait_until(lambda: len(cluster.names()) == 2 and cluster.names() != old)
    assert cluster.generate("Hi").status_code == 200
