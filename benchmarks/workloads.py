"""Seeded work, the same for every peer: the W2 trace, sentences to translate, texts of mixed lengths."""

import random
from dataclasses import dataclass
from math import exp

FIRST_TRACE_ID = 300  # below lie special and byte tokens


@dataclass(frozen=True)
class TraceRequest:
    """A prompt of token ids, and how many tokens are generated for it, no more and no fewer."""

    prompt: tuple[int, ...]
    num_output: int


def w2_trace(
    vocab_size: int,
    num_requests: int = 64,
    prompt: tuple[int, int] = (4, 128),
    output: tuple[int, int] = (4, 64),
    seed: int = 0,
) -> list[TraceRequest]:
    """Uniform lengths (bounds included) and ids; the defaults are W2 at a quarter of its lengths."""
    source = random.Random(seed)
    trace = []
    for _ in range(num_requests):
        num_prompt, num_output = source.randint(*prompt), source.randint(*output)
        ids = tuple(source.randrange(FIRST_TRACE_ID, vocab_size) for _ in range(num_prompt))
        trace.append(TraceRequest(ids, num_output))
    return trace


def mixed_lengths(
    count: int = 512, center: float = 24, spread: float = 0.8, longest: int = 256, seed: int = 0
) -> list[int]:
    """Token counts, special tokens included: log-normal around the median `center`, cut to 3 … `longest`."""
    source = random.Random(seed)
    return [max(3, min(longest, round(center * exp(spread * source.gauss(0, 1))))) for _ in range(count)]


def mixed_texts(words: list[str], lengths: list[int], seed: int = 1) -> list[str]:
    """One text a length, of words that are one token each; two places are left for the special tokens."""
    source = random.Random(seed)
    return [" ".join(source.choice(words) for _ in range(length - 2)) for length in lengths]


_WHO = (
    "My brother",
    "The old teacher",
    "Nobody in this town",
    "Our neighbour",
    "Tom",
    "She",
    "The doctor",
    "Mary",
)
_WHAT = (
    "wanted to buy a new bicycle.",
    "has never seen the sea.",
    "forgot to close the window last night.",
    "was waiting for the train to Berlin.",
    "knew the answer to that question, but it was too late.",
    "drinks a cup of coffee every morning.",
    "could not find the key to the house.",
    "told me that it would rain tomorrow.",
)


def sentences() -> list[str]:
    """64 everyday English sentences, all different."""
    return [f"{who} {what}" for what in _WHAT for who in _WHO]
