"""What batching gains inside one service: many clients against one, one against the plain loop."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.connection import Body, send_all
from benchmarks.measure import Claim, Options, Report, alternate
from benchmarks.service import AS_IF_NEW, Service
from benchmarks.workloads import TraceRequest, sentences, w2_trace
from model.families import read_config
from model.greedy import generate_greedy
from model.loading import load_model

ZOO = Path(__file__).resolve().parent.parent / "model" / "zoo"
NUM_CLIENTS = 16


def run(options: Options) -> Report:
    """Output tokens per second on `writer`, translations per second on `translator`.

    Without guesses, which gain a lone client more than many: what batching gains is the question here.
    """
    trace = writer_trace(options)
    texts = sentences() if options.is_full else sentences()[:16]
    with Service((*options.serve, *AS_IF_NEW, "--no-speculation")) as service:
        writing = alternate(
            {
                "16 clients": lambda: write(service.port, trace, NUM_CLIENTS),
                "one client": lambda: write(service.port, trace[::4], 1),
                "plain loop": plain_loop(trace[::4]),
            },
            options.pairs,
        )
        translating = alternate(
            {
                "at once": lambda: translate(service.port, texts, len(texts)),
                "one by one": lambda: translate(service.port, texts, 1),
            },
            options.pairs,
        )
    claims = [
        Claim("writer: 16 clients / 1 client", "tokens/s", writing["16 clients"], writing["one client"], 6.0),
        Claim("writer: 1 client / plain loop", "tokens/s", writing["one client"], writing["plain loop"], 0.8),
        Claim(
            f"translator: {len(texts)} at once / one by one",
            "texts/s",
            translating["at once"],
            translating["one by one"],
            4.0,
        ),
    ]
    return Report(
        "concurrency", claims, {"requests": len(trace), "threads_of_the_loop": torch.get_num_threads()}
    )


def writer_trace(options: Options) -> list[TraceRequest]:
    """Prompts of 16 to 64 ids and 64 new tokens each: a story's next lines."""
    vocab_size = read_config(ZOO / "writer").vocab_size
    count, output = (64, 64) if options.is_full else (32, 16)
    return w2_trace(vocab_size, count, prompt=(16, 64), output=(output, output))


def completion(request: TraceRequest) -> Body:
    """The greedy streamed request whose answer has exactly the trace's number of tokens."""
    return {
        "model": "writer",
        "prompt": list(request.prompt),
        "max_tokens": request.num_output,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def write(port: int, trace: Sequence[TraceRequest], clients: int) -> float:
    """Output tokens per second; raises when an answer is shorter or longer than asked for."""
    replies, seconds = send_all(port, "/v1/completions", [completion(request) for request in trace], clients)
    counted: list[int] = [reply.events()[-1]["usage"]["completion_tokens"] for reply in replies]
    if counted != [request.num_output for request in trace]:
        raise RuntimeError("the service generated another number of tokens than asked for")
    return sum(counted) / seconds


def plain_loop(trace: Sequence[TraceRequest]) -> Callable[[], float]:
    """One sequence after the other through the plain unbatched loop, on the same weights in float32."""
    model = load_model(ZOO / "writer", torch.float32, "cpu")

    def measure() -> float:
        start = time.perf_counter()
        for request in trace:
            generated = generate_greedy(model, [request.prompt], request.num_output, ignore_eos=True)
            assert len(generated[0]) == request.num_output
        return sum(request.num_output for request in trace) / (time.perf_counter() - start)

    return measure


def translate(port: int, texts: Sequence[str], clients: int) -> float:
    """Greedy translations per second, one text a request."""
    bodies: list[Body] = [
        {"model": "translator", "text": text, "target": "de", "num_beams": 1} for text in texts
    ]
    _, seconds = send_all(port, "/v1/translate", bodies, clients)
    return len(texts) / seconds
