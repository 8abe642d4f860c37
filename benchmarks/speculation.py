"""What guessing costs where it does not pay, and gives where it does: two engines in one process, run by turns."""

import time
from collections.abc import Callable, Sequence

from app.engine.build import build_engine
from app.engine.engine import Engine
from app.engine.protocol import GenerateRequest, ModelSpec, Tokens, WorkerConfig
from app.engine.sampling_params import SamplingParams
from benchmarks.concurrency import ZOO
from benchmarks.measure import Claim, Options, Report, alternate
from benchmarks.workloads import sentences, w2_trace
from model.families import read_config
from model.tokenization import Tokenizer

MOST = 1.03
"""How much longer a workload may take with guesses than without."""
NUM_AT_ONCE = 16


def run(options: Options) -> Report:
    """Seconds with and without speculation for the W2 trace (random ids), sampled stories, translations, and a text
    that repeats itself."""
    vocab_size = read_config(ZOO / "writer").vocab_size
    count = 48 if options.is_full else 16
    trace = [
        _request("writer", list(one.prompt), one.num_output, number)
        for number, one in enumerate(w2_trace(vocab_size, count))
    ]
    stories = [_request("writer", [500 + n] * 3, 48, n, temperature=1.0) for n in range(count)]
    encoded = Tokenizer.from_folder(ZOO / "translator").encode_batch(
        [f"<2de> {text}" for text in sentences()[:count]]
    )
    translations = [_request("translator", list(one.ids), 24, n) for n, one in enumerate(encoded)]
    alone = [_request("writer", [400, 401, 402, 403] * 8, 200, 0)]
    workloads = {
        "W2 trace, 16 at once": (trace, NUM_AT_ONCE),
        "sampled stories, 16 at once": (stories, NUM_AT_ONCE),
        "translations, 16 at once": (translations, NUM_AT_ONCE),
        "one greedy text that repeats itself": (alone, 1),
    }
    engines = {name: make_engine(speculation=name == "with") for name in ("with", "without")}
    pairs = 30 if options.is_full else options.pairs
    claims, wasted = [], {}
    for what, (requests, at_once) in workloads.items():
        seconds = alternate(
            {name: timed(engine, requests, at_once) for name, engine in engines.items()}, pairs
        )
        ratios = [a / b for a, b in zip(seconds["with"], seconds["without"], strict=True)]
        claims.append(Claim(f"{what}: with / without", "ratio of seconds", ratios, target=MOST))
        wasted[what] = count_wasted(engines["with"], requests, at_once)
    return Report("speculation", claims, {"pairs": pairs, "wasted_tokens_a_step": wasted})


def make_engine(*, speculation: bool) -> Engine:
    models = [ModelSpec(name, str(ZOO / name)) for name in ("writer", "translator")]
    return build_engine(
        WorkerConfig(models=models, device="cpu", speculation=speculation, prefix_cache=False)
    )


def _request(
    model: str, prompt: list[int], count: int, number: int, temperature: float = 0.0
) -> GenerateRequest:
    params = SamplingParams(max_tokens=count, temperature=temperature, seed=number, ignore_eos=True)
    return GenerateRequest(id=number, model=model, prompt_ids=prompt, params=params)


def timed(engine: Engine, requests: Sequence[GenerateRequest], at_once: int) -> Callable[[], float]:
    def measure() -> float:
        start = time.perf_counter()
        drain(engine, requests, at_once)
        return time.perf_counter() - start

    return measure


def drain(engine: Engine, requests: Sequence[GenerateRequest], at_once: int) -> tuple[int, int]:
    """Runs all, so many at a time; guesses that were wrong, and steps."""
    waiting, running, num_wasted, num_steps = list(requests), 0, 0, 0
    while waiting or engine.has_work:
        while waiting and running < at_once:
            engine.add(waiting.pop(0))
            running += 1
        step = engine.step()
        running -= sum(isinstance(out, Tokens) and out.finish_reason is not None for out in step.outputs)
        num_steps += 1
        if step.report is not None:
            num_wasted += step.report.drafted_tokens - step.report.accepted_tokens
    return num_wasted, num_steps


def count_wasted(engine: Engine, requests: Sequence[GenerateRequest], at_once: int) -> float:
    """Wrong guesses a step, on average."""
    num_wasted, num_steps = drain(engine, requests, at_once)
    return round(num_wasted / num_steps, 3)
