"""How long a decode step takes for 1 to 256 sequences, and how much of that is work around the model.

The engine in this process, as it serves; its own trace tells the stages of each step. Making a step's batch, and
committing what was said, are Python: they should grow with the sequences no faster than the model's own time.
"""

import random
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

from app.engine.build import build_engine
from app.engine.engine import Engine
from app.engine.protocol import GenerateRequest, ModelSpec, WorkerConfig
from app.engine.questions import Traced, TraceSteps
from app.engine.sampling_params import SamplingParams
from benchmarks.concurrency import ZOO
from benchmarks.measure import Claim, Options, Report
from benchmarks.peers.shapes import QWEN, write
from model.families import read_config

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
MOST_AROUND = 0.1
"""The share of a step of 32 sequences that may be work around the model."""
_PROMPT, _STEPS, _FIRST = 4, 24, 4
_TOKENS = 400  # more than are said until the last prompt is done, and after that
_AROUND = ("schedule", "batch", "commit")


def run(options: Options) -> Report:
    """Of the packaged writer; with `options.is_large` of a checkpoint of the shape of Qwen2.5-0.5B."""
    with TemporaryDirectory() as folder:
        path = write(QWEN, Path(folder)) if options.is_large else ZOO / "writer"
        config = WorkerConfig(
            models=[ModelSpec("model", str(path))],
            device="cpu",
            max_num_seqs=max(BATCHES),
            speculation=False,
            prefix_cache=False,
        )
        engine, size = build_engine(config), read_config(path).vocab_size
        claims: list[Claim] = []
        for batch in BATCHES if options.is_full else BATCHES[:7]:
            steps = _steps(engine, batch, size)
            claims.append(Claim(f"a step of {batch}", "ms", [median(whole for whole, _ in steps)]))
            shares = [around / whole for whole, around in steps]
            bound = MOST_AROUND if batch == 32 else None
            claims.append(Claim(f"work around the model, of {batch}", "share", shares, target=bound))
    return Report("steps_large" if options.is_large else "steps", claims)


def _steps(engine: Engine, batch: int, size: int) -> list[tuple[float, float]]:
    """Milliseconds of each of some steps in which all decode, and of these the work around the model."""
    source = random.Random(batch)
    params = SamplingParams(max_tokens=_TOKENS, ignore_eos=True)
    for number in range(batch):
        ids = [source.randrange(300, size) for _ in range(_PROMPT)]
        engine.add(GenerateRequest(id=number, model="model", prompt_ids=ids, params=params))
    num_decoding = 0
    while num_decoding < batch:
        report = engine.step().report
        assert report is not None
        num_decoding = report.batch_tokens if report.phase == "decode" else 0
    for _ in range(_FIRST + _STEPS):
        engine.step()
    engine.ask(TraceSteps(id=0, steps=_STEPS))
    [traced] = engine.replies()
    assert isinstance(traced, Traced)
    engine.abort(range(batch))
    found = []
    for step in traced.steps:
        assert step.decoding_tokens == batch
        seconds = {name: ended - began for name, began, ended in step.stages}
        found.append((sum(seconds.values()) * 1e3, sum(seconds[name] for name in _AROUND) * 1e3))
    return found
