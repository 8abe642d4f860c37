"""What traces cost a request: `python -m benchmarks.tracing`.

The application in process, with an engine that answers at once, so that what is measured is ours; in CPU time of the
whole process, the SDK's thread counted. Modes take turns, round by round; the figure is the median round's.
"""

import asyncio
import json
import logging
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from app.api.gate import Limits
from app.caller import caller
from app.config import load_settings
from app.engine.journal import Journal
from app.engine.protocol import Encoded, EncodeRequest, GenerateRequest, ModelInfo, Ready, StepOutputs, Tokens
from app.main import create_app
from app.metrics import Metrics
from app.registry import build_registry
from app.tracing import Tracing

ROUNDS, REQUESTS = 15, 100
BODIES = {
    "one text classified": ("/v1/classify", {"text": "I am happy", "model": "sentiment"}),
    "100 tokens generated": ("/v1/generate", {"prompt": "Once", "max_tokens": 100, "model": "writer"}),
}
_SINK = """
from http.server import BaseHTTPRequestHandler, HTTPServer
class Sink(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()
    def log_message(self, *args): pass
server = HTTPServer(("127.0.0.1", 0), Sink)
print(server.server_port, flush=True)
server.serve_forever()
"""


class InstantEngine:
    """Answers through a real journal, a message a token."""

    is_ready = True
    num_requests = 0

    def __init__(self, names: Sequence[str], vocab_sizes: dict[str, int]) -> None:
        self._names, self._vocab_sizes = names, vocab_sizes
        self._journal = Journal(1000, 1_000_000)

    async def start(self) -> Ready:
        models = [
            ModelInfo(
                name=name,
                kind="encoder",
                max_model_len=256,
                vocab_size=self._vocab_sizes[name],
                parameters=1,
                bytes=1,
                load_seconds=0.0,
                dtype="float32",
                device="cpu",
            )
            for name in self._names
        ]
        return Ready(models=models, device="cpu")

    def check_room(self, asked_by: object) -> None:
        pass

    async def stop(self, drain_timeout: float) -> None:
        pass

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Tokens]:
        answers: list[Any] = []
        [admitted] = self._journal.admit([request], answers.append, caller.get())
        last = request.params.max_tokens - 1
        for number in range(last + 1):
            tokens = Tokens(
                id=admitted.id, token_ids=[300], finish_reason="length" if number == last else None
            )
            begun = [] if number else [admitted.id]
            self._journal.receive(StepOutputs([tokens], None, time.monotonic(), begun))
            yield answers.pop()[1]

    async def encode_many(self, requests: Sequence[EncodeRequest]) -> list[Encoded]:
        answers: list[Any] = []
        for one in self._journal.admit(requests, answers.append, caller.get()):
            encoded = Encoded(id=one.id, shape=[2], data=bytes(8), queue_duration=0.0)
            self._journal.receive(StepOutputs([encoded], None, time.monotonic(), [one.id]))
        return [answer for _, answer in answers]


async def _ask(app: Any, path: str, content: bytes) -> None:
    messages = [{"type": "http.request", "body": content, "more_body": False}]
    status = 0

    async def receive() -> dict[str, Any]:
        if messages:
            return messages.pop()
        await asyncio.Event().wait()
        raise AssertionError

    async def send(message: dict[str, Any]) -> None:
        nonlocal status
        status = message.get("status", status)

    scope = {
        "type": "http",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
        "scheme": "http",
        "http_version": "1.1",
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 8000),
        "state": {},
    }
    await app(scope, receive, send)
    if status != 200:
        raise RuntimeError(f"{path} answered {status}")


async def _round(app: Any, path: str, content: bytes) -> float:
    started = time.process_time()
    for _ in range(REQUESTS):
        await _ask(app, path, content)
    return (time.process_time() - started) / REQUESTS * 1e6


async def _measure(url: str) -> None:
    registry = build_registry(load_settings({}, {}), Metrics("0"), "0")
    vocab_sizes = {one.name: one.config.vocab_size for one in registry.served.values()}
    await registry.start(InstantEngine(list(registry.served), vocab_sizes))  # type: ignore[arg-type]
    limits = Limits(1 << 20, 30.0, 600.0)
    apps = {"off": create_app(registry, limits)}
    for name, sampler in (("sampled out", "always_off"), ("recorded", "always_on")):
        os.environ["OTEL_TRACES_SAMPLER"] = sampler
        apps[name] = create_app(registry, limits, tracing=Tracing(url, "0"))
    for what, (path, body) in BODIES.items():
        content = json.dumps(body).encode()
        times: dict[str, list[float]] = {name: [] for name in apps}
        for _ in range(ROUNDS):
            for name, app in apps.items():
                times[name].append(await _round(app, path, content))
        told = ", ".join(f"{name} {statistics.median(found):,.0f} µs" for name, found in times.items())
        print(f"{what}: {told}")
    await registry.stop()


def main() -> None:
    logging.disable()
    sink = subprocess.Popen([sys.executable, "-c", _SINK], stdout=subprocess.PIPE, text=True)
    try:
        assert sink.stdout is not None
        asyncio.run(_measure(f"http://127.0.0.1:{sink.stdout.readline().strip()}/v1/traces"))
    finally:
        sink.kill()


if __name__ == "__main__":
    main()
