"""The service against `transformers` with static batches, on the same checkpoints and the same work."""

import json
import sys
from collections.abc import Sequence

from benchmarks.concurrency import NUM_CLIENTS, ZOO, write
from benchmarks.connection import Body, send_all
from benchmarks.line_process import LineProcess
from benchmarks.measure import Claim, Options, Report, alternate
from benchmarks.service import AS_IF_NEW, Service
from benchmarks.workloads import TraceRequest, mixed_lengths, mixed_texts, w2_trace
from model.families import read_config

GENERATE_BATCH = 16
CLASSIFY_BATCH = 32
CLASSIFIER = "sentiment"
DTYPES = ("float32", "bfloat16")


def run(options: Options) -> Report:
    """Output tokens per second over the W2 trace, dtype by dtype, then texts per second over mixed lengths.

    The service computes the zoo's float16 weights in float32, as it does when nothing else is asked for;
    so the peer in bfloat16 is also set against a service that was started with `--dtype bfloat16`.
    """
    trace = w2_trace(read_config(ZOO / "writer").vocab_size, 64 if options.is_full else 32)
    texts = classification_texts(512 if options.is_full else 128)
    claims = []
    with Service((*options.serve, *AS_IF_NEW)) as service:
        claims += [generation_claim(service.port, trace, "", dtype, options) for dtype in DTYPES]
        claims.append(classification_claim(service.port, texts, options))
    with Service((*options.serve, *AS_IF_NEW, "--dtype", "bfloat16")) as service:
        claims.append(generation_claim(service.port, trace, " in bfloat16", "bfloat16", options))
    details = {"output_tokens": sum(request.num_output for request in trace), "texts": len(texts)}
    return Report("against_transformers", claims, details)


def generation_claim(
    port: int, trace: Sequence[TraceRequest], ours: str, dtype: str, options: Options
) -> Claim:
    """`writer` over HTTP against static batches in one dtype."""
    with started("generate", str(ZOO / "writer"), dtype) as peer:
        values = alternate(
            {"ours": lambda: write(port, trace, NUM_CLIENTS), "theirs": lambda: generate(peer, trace)},
            options.pairs,
        )
    name = f"writer{ours}, W2/4, 16 clients / transformers {dtype}, batches of {GENERATE_BATCH}"
    # Like is held against like; ours in float32 beside theirs in bfloat16 is printed for the record.
    target = 2.0 if (dtype == "bfloat16") == bool(ours) else None
    return Claim(name, "tokens/s", values["ours"], values["theirs"], target)


def classification_claim(port: int, texts: Sequence[str], options: Options) -> Claim:
    """The classifier over HTTP against padded batches."""
    with started("classify", str(ZOO / "minilm"), str(ZOO / CLASSIFIER), "float32") as peer:
        values = alternate(
            {"ours": lambda: classify(port, texts), "theirs": lambda: classify_padded(peer, texts)},
            options.pairs,
        )
    name = f"{CLASSIFIER}, {len(texts)} texts at once / transformers float32, batches of {CLASSIFY_BATCH}"
    return Claim(name, "texts/s", values["ours"], values["theirs"], 1.5)


def classification_texts(count: int) -> list[str]:
    """Texts of whole words that are one token each for the classifier's tokenizer."""
    vocabulary = json.loads((ZOO / "minilm" / "tokenizer.json").read_text(encoding="utf-8"))["model"]["vocab"]
    words = sorted(word for word in vocabulary if word.isascii() and word.isalpha() and len(word) > 2)
    return mixed_texts(words, mixed_lengths(count))


def generate(peer: LineProcess, trace: Sequence[TraceRequest]) -> float:
    """Wanted tokens per second: what a static batch generates past a member's end is nobody's output."""
    batches = [trace[start : start + GENERATE_BATCH] for start in range(0, len(trace), GENERATE_BATCH)]
    seconds = peer.ask(
        {
            "batches": [[list(request.prompt) for request in batch] for batch in batches],
            "new": [max(request.num_output for request in batch) for batch in batches],
        }
    )
    return sum(request.num_output for request in trace) / seconds


def classify(port: int, texts: Sequence[str]) -> float:
    """Texts per second, one text a request, all sent at once."""
    bodies: list[Body] = [{"model": CLASSIFIER, "text": text} for text in texts]
    _, seconds = send_all(port, "/v1/classify", bodies, len(texts))
    return len(texts) / seconds


def classify_padded(peer: LineProcess, texts: Sequence[str]) -> float:
    """Texts per second in padded batches."""
    return len(texts) / peer.ask({"texts": list(texts), "batch": CLASSIFY_BATCH})


def started(*arguments: str) -> LineProcess:
    """`benchmarks.peer`, to be entered."""
    return LineProcess([sys.executable, "-m", "benchmarks.peer", *arguments])
