"""What open streams feel while a model of half a gigabyte is loaded beside theirs, and while their own is replaced."""

import asyncio
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from statistics import fmean, quantiles

import torch

from benchmarks.connection import Body, Connection, Reply
from benchmarks.loading import GIGABYTE
from benchmarks.measure import Claim, Options, Report
from benchmarks.service import Service
from model.loading import save_model
from model.transformer import Transformer

NUM_STREAMS = 4
SETTLED = 20
"""Tokens of each stream before anything is loaded."""
LONGEST = 1.0
"""Seconds: a halt that somebody would notice."""
KEY = "for-this-run-alone"
WRITER = Path(__file__).parents[1] / "model" / "zoo" / "writer"


def run(options: Options) -> Report:
    """Four streams on `writer`: left alone, while another model comes and goes, and while `writer` is loaded anew."""
    rounds = 5 if options.is_full else 2
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        _write(root)
        flags = ("--api-key-file", str(root / "keys"), "--model-root", name, "--no-prefix-cache")
        with Service((*options.serve, *flags)) as service:
            trial = Trial(service.port)
            for _ in range(rounds):
                trial.go("quiet", [])
                trial.go("another", ["large/load", "large/unload"])
                trial.go("its own", ["writer/load"])
    claims = [
        Claim("texts that differ from the undisturbed ones, or failed", "", [trial.num_differing], target=0),
        Claim("gap between tokens, quiet, mean", "ms", [1000 * fmean(one) for one in trial.gaps["quiet"]]),
    ]
    for what, gaps in trial.gaps.items():
        if what != "quiet":
            claims.append(
                Claim(f"gap while {what} model is loaded, mean", "ms", [1000 * fmean(one) for one in gaps])
            )
        claims.append(
            Claim(f"gap, {what}, 99th percentile", "ms", [1000 * quantiles(one, n=100)[-1] for one in gaps])
        )
        target = None if what == "quiet" else LONGEST
        claims.append(Claim(f"gap, {what}, longest", "s", [max(one) for one in gaps], target=target))
    claims += [Claim(f"{path}, answered after", "s", seconds) for path, seconds in trial.seconds.items()]
    return Report("reload", claims, {"streams": NUM_STREAMS})


def _write(root: Path) -> None:
    """A key that may do anything, and a model with the writer's tokenizer."""
    (root / "keys").write_text(f"root infer,admin,metrics {sha256(KEY.encode()).hexdigest()}\n")
    torch.manual_seed(0)
    with torch.device("cpu"):
        model = Transformer(replace(GIGABYTE, vocab_size=8192, num_decoder_layers=2))
    save_model(model, root / "large")
    for file in WRITER.glob("*token*.json"):
        shutil.copy(file, root / "large" / file.name)


class Trial:
    """All rounds, and what came of them."""

    def __init__(self, port: int) -> None:
        self.num_differing = 0
        self.gaps: dict[str, list[list[float]]] = {}
        self.seconds: dict[str, list[float]] = {}
        self._port = port
        self._texts: list[str] = []

    def go(self, what: str, paths: Sequence[str]) -> None:
        """One round with four streams, whose gaps count from the first of `paths` to the end of the last one."""
        streams, others = asyncio.run(self._run(paths))
        texts = ["".join(str(event["choices"][0]["text"]) for event in reply.events()) for reply in streams]
        self._texts = self._texts or texts
        self.num_differing += sum(a != b for a, b in zip(texts, self._texts, strict=True))
        begin = min((reply.start for reply in others), default=0.0)
        end = max((reply.end for reply in others), default=float("inf"))
        gaps = []
        for stream in streams:
            pairs = zip(stream.arrivals[1:], stream.arrivals, strict=False)
            gaps += [later - earlier for later, earlier in pairs if begin <= later and earlier <= end]
        self.gaps.setdefault(what, []).append(gaps)
        for path, reply in zip(paths, others, strict=True):
            self.seconds.setdefault(path, []).append(reply.end - reply.start)

    async def _run(self, paths: Sequence[str]) -> tuple[list[Reply], list[Reply]]:
        settled = asyncio.Semaphore(0)

        def heard(count: int) -> None:
            if count == SETTLED:
                settled.release()

        async def stream(number: int) -> Reply:
            body: Body = {
                "model": "writer",
                "prompt": [400 + number] * 8,
                "max_tokens": 900,
                "temperature": 0,
            }
            body |= {"ignore_eos": True, "stream": True}
            async with Connection(self._port, KEY) as connection:
                return await connection.post("/v1/completions", body, heard)

        running = [asyncio.create_task(stream(number)) for number in range(NUM_STREAMS)]
        for _ in running:
            await settled.acquire()
        others = []
        async with Connection(self._port, KEY) as connection:
            for path in paths:
                body = {"path": "large"} if path == "large/load" else {}
                others.append(await connection.post(f"/admin/models/{path}", body))
        return await asyncio.gather(*running), others
