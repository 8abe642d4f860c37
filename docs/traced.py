"""Draws what a trace tells: `python -m docs.traced [TRACE.json]`, the answer of the trace endpoint.

Without a file it traces a short run of the zoo's writer and translator itself, on a CPU.
"""

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from app.chrome_trace import chrome_trace
from app.engine.build import build_engine
from app.engine.engine import Engine
from app.engine.protocol import GenerateRequest, ModelSpec, WorkerConfig
from app.engine.questions import MAX_TRACED_STEPS, Traced, TraceSteps
from app.engine.sampling_params import SamplingParams
from benchmarks.concurrency import ZOO
from benchmarks.workloads import sentences
from model.tokenization import Tokenizer

PICTURE = Path(__file__).parent / "images" / "steps.png"
COLOURS = {
    "schedule": "#8c8c8c",
    "batch": "#e0a030",
    "run": "#3b78b0",
    "sample": "#d1495b",
    "commit": "#4c9f70",
}
KINDS = {"decoding_tokens": "#3b78b0", "prompt_tokens": "#a9c7e3", "drafted_tokens": "#d1495b"}


def trace_zoo() -> dict[str, Any]:
    """Four stories stream; then comes a prompt of 900 tokens, and then six sentences to translate."""
    encoded = Tokenizer.from_folder(ZOO / "translator").encode_batch([f"<2de> {s}" for s in sentences()[:6]])
    models = [ModelSpec(name, str(ZOO / name)) for name in ("writer", "translator")]
    engine = build_engine(WorkerConfig(models=models, device="cpu", threads=1, prefix_cache=False))
    _say(engine, "writer", [[500] * 8], 2)
    while engine.has_work:
        engine.step()
    _say(engine, "writer", [[600 + n] * 4 for n in range(4)], 40)
    _steps(engine, 8)
    _say(engine, "writer", [list(range(300, 1200))], 8)
    _steps(engine, 3)
    _say(engine, "translator", [list(one.ids) for one in encoded], 6)
    num_steps = 11 + _steps(engine, 22)
    engine.ask(TraceSteps(1, min(num_steps, MAX_TRACED_STEPS)))
    [reply] = engine.replies()
    assert isinstance(reply, Traced)
    return chrome_trace(reply.steps)


def _say(engine: Engine, model: str, prompts: list[list[int]], count: int) -> None:
    for number, prompt in enumerate(prompts, len(prompts[0]) * 1000):
        params = SamplingParams(max_tokens=count, temperature=0.0, seed=0, ignore_eos=True)
        engine.add(GenerateRequest(id=number, model=model, prompt_ids=prompt, params=params))


def _steps(engine: Engine, most: int) -> int:
    count = 0
    while engine.has_work and count < most:
        engine.step()
        count += 1
    return count


def draw(trace: dict[str, Any], picture: Path) -> None:
    """Stages in the row of each model, and below them the tokens of each step."""
    events = trace["traceEvents"]
    rows = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    timed = [event for event in events if event["ph"] == "X"]
    first = min(event["ts"] for event in timed)
    plt.rcParams |= {"font.size": 8}
    figure, (stages, tokens) = plt.subplots(
        2, 1, figsize=(9, 3.4), sharex=True, height_ratios=[1 + len(rows), 3], layout="constrained"
    )
    for name, colour in COLOURS.items():
        for row in rows:
            spans = [
                ((event["ts"] - first) / 1000, event["dur"] / 1000)
                for event in timed
                if (event["cat"], event["name"], event["tid"]) == ("stage", name, row)
            ]
            label = name if row == next(iter(rows)) else None
            stages.broken_barh(spans, (row - 0.4, 0.8), color=colour, label=label, linewidth=0)
    stages.set_yticks(list(rows), list(rows.values()))
    stages.invert_yaxis()
    stages.legend(ncols=len(COLOURS), loc="lower center", bbox_to_anchor=(0.5, 1.0), frameon=False)
    steps = [event for event in timed if event["cat"] == "step"]
    places = [(event["ts"] - first) / 1000 for event in steps]
    below = [0] * len(steps)
    for kind, colour in KINDS.items():
        counts = [event["args"][kind] for event in steps]
        widths = [event["dur"] / 1000 for event in steps]
        label = kind.replace("_", " ")
        tokens.bar(places, counts, widths, below, align="edge", color=colour, label=label, linewidth=0)
        below = [low + count for low, count in zip(below, counts, strict=True)]
    tokens.set_ylabel("tokens of the step")
    tokens.set_xlabel("milliseconds")
    tokens.legend(frameon=False, loc="upper left")
    figure.savefig(picture, dpi=110)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text()) if len(sys.argv) > 1 else trace_zoo(), PICTURE)
