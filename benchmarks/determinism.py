"""What `--deterministic` costs: the same work from two services, one with it and one without."""

from collections.abc import Callable

from benchmarks.concurrency import NUM_CLIENTS, translate, write, writer_trace
from benchmarks.connection import Body, send_all
from benchmarks.measure import Claim, Options, Report, alternate
from benchmarks.service import AS_IF_NEW, Service
from benchmarks.workloads import sentences

LONG_TEXTS, LONG = 8, 24
"""Texts to classify, of so many sentences each: some 280 tokens."""


def run(options: Options) -> Report:
    """Every line is the service with it against the one without it: ratios below one are what it costs."""
    serve = (*options.serve, *AS_IF_NEW, "--no-speculation")
    trace, texts = writer_trace(options), sentences()
    long_texts = [" ".join(texts[i : i + LONG]) for i in range(LONG_TEXTS)]
    work: dict[tuple[str, str], Callable[[int], float]] = {
        (f"writer: {NUM_CLIENTS} clients", "tokens/s"): lambda port: write(port, trace, NUM_CLIENTS),
        ("writer: one client", "tokens/s"): lambda port: write(port, trace[::4], 1),
        (f"translator: {len(texts)} at once", "texts/s"): lambda port: translate(port, texts, len(texts)),
        (f"sentiment: {len(texts)} short texts", "texts/s"): lambda port: classify(port, texts),
        (f"sentiment: {LONG_TEXTS} long texts", "texts/s"): lambda port: classify(port, long_texts),
    }
    claims = []
    with Service((*serve, "--deterministic")) as with_it, Service(serve) as without_it:
        for (what, unit), measure in work.items():
            ports = {"with": with_it.port, "without": without_it.port}
            found = alternate(
                {name: lambda port=port, measure=measure: measure(port) for name, port in ports.items()},  # type: ignore[misc]
                options.pairs,
            )
            claims.append(Claim(what, unit, found["with"], found["without"]))
    return Report("determinism", claims)


def classify(port: int, texts: list[str]) -> float:
    """Texts per second, all in one request."""
    body: Body = {"model": "sentiment", "text": texts}
    _, seconds = send_all(port, "/v1/classify", [body], 1)
    return len(texts) / seconds
