"""A service whose engine computes nothing: `python -m benchmarks.echo_engine serve …`, with `quartet serve`'s flags.

Every prompt comes back, again and again, a token of each sequence in a step, `RATE` tokens a second in all: what is
left of the cost of a token is the cost of telling it.
"""

import argparse
import asyncio
import socket
import sys
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from app import logs
from app.arguments import make_parser
from app.config import load_settings, with_folders
from app.engine.protocol import (
    Answer,
    EncodeRequest,
    GenerateRequest,
    ModelInfo,
    Report,
    StepOutputs,
    Tokens,
    WorkerConfig,
)
from app.engine.questions import Question, Reply
from app.engine_setup import build_engine

RATE = 2000.0
MOST_TOKENS = 100_000


class EchoEngine:
    """The worker's engine; see above."""

    def __init__(self, config: WorkerConfig) -> None:
        self.infos = [_info(model.name) for model in config.models]
        self._running: dict[int, tuple[GenerateRequest, int]] = {}
        self._begun: list[int] = []
        self._next = 0.0

    @property
    def has_work(self) -> bool:
        return bool(self._running)

    def add(self, request: GenerateRequest | EncodeRequest) -> None:
        assert isinstance(request, GenerateRequest)
        self._running[request.id] = request, 0
        self._begun.append(request.id)

    def abort(self, ids: Iterable[int]) -> None:
        for request_id in ids:
            self._running.pop(request_id, None)

    def step(self) -> StepOutputs:
        """At its moment, unless it is late."""
        now = time.monotonic()
        self._next = max(now, self._next + len(self._running) / RATE)
        time.sleep(self._next - now)
        outputs: list[Answer] = []
        begun = set(self._begun)
        for request_id, (request, said) in list(self._running.items()):
            is_last = said + 1 == request.params.max_tokens
            outputs.append(
                Tokens(
                    id=request_id,
                    token_ids=[request.prompt_ids[said % len(request.prompt_ids)]],
                    finish_reason="length" if is_last else None,
                    queue_duration=0.0 if request_id in begun else None,
                )
            )
            self._running[request_id] = request, said + 1
            if is_last:
                del self._running[request_id]
        name, size = self.infos[0].name, len(outputs)
        report = Report(
            model=name,
            phase="decode",
            duration_s=0.001,
            batch_size=size,
            batch_tokens=size,
            running={name: len(self._running)},
            waiting={name: 0},
            kv_usage={name: 0.5},
        )
        self._begun = []
        return StepOutputs(outputs, report, self._next, list(begun))

    def ask(self, question: Question) -> None:
        raise ValueError(f"this engine holds no weights to ask {type(question).__name__} of")

    def replies(self) -> list[Reply]:
        return []

    def when_ready(self, wake: Callable[[], object]) -> None:
        pass


def _info(name: str) -> ModelInfo:
    return ModelInfo(
        name=name,
        kind="decoder",
        max_model_len=MOST_TOKENS,
        vocab_size=MOST_TOKENS,
        parameters=0,
        bytes=0,
        load_seconds=0.0,
        dtype="float32",
        device="cpu",
    )


def _serve(arguments: list[str]) -> int:
    from app.cli import serve

    given = vars(make_parser("").parse_args(arguments))
    del given["command"]
    settings = with_folders(load_settings(given), Path)
    logs.configure(settings.log_format)
    command = (sys.executable, "-m", "benchmarks.echo_engine", "work")
    return asyncio.run(serve(settings, partial(build_engine, command=command)))


def _work(arguments: list[str]) -> int:
    from app.engine.worker import run

    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--flight", type=int, required=True)
    with socket.socket(fileno=parser.parse_args(arguments).fd) as sock:
        return run(sock, EchoEngine)


if __name__ == "__main__":
    sys.exit(_serve(sys.argv[1:]) if sys.argv[1] == "serve" else _work(sys.argv[2:]))
