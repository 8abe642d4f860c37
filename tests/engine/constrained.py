"""A tiny random model that speaks in bytes, and sequences that must keep to constraints."""

import json
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from app.engine.build import build_engine
from app.engine.engine import Engine
from app.engine.protocol import (
    Constraint,
    ConstraintKind,
    Failed,
    GenerateRequest,
    ModelSpec,
    Tokens,
    WorkerConfig,
)
from app.engine.sampling_params import SamplingParams
from model.loading import save_model
from tests.api.folders import SPECIAL, byte_tokenizer
from tests.tiny import LLAMA, random_model

EOS = 1
NUM_TOKENS = len(SPECIAL) + 256
NUM_LOGITS = NUM_TOKENS + 7
"""More than there are tokens, as where a checkpoint pads its vocabulary."""


def write_folder(folder: Path, max_positions: int = 1100) -> Path:
    """The checkpoint "bytes"."""
    size: dict[str, Any] = {"vocab_size": NUM_LOGITS, "max_positions": max_positions}
    save_model(random_model(LLAMA, eos_token_ids=(EOS,), bos_token_id=None, **size), folder)
    byte_tokenizer(pair_template=False).save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"eos_token": SPECIAL[EOS]}))
    return folder


def make_engine(
    folder: Path, kv_cache_memory: int = 100_000_000, dtype: str = "float64", speculation: bool = True
) -> Engine:
    config = WorkerConfig(
        models=[ModelSpec("bytes", str(folder))],
        device="cpu",
        dtype=dtype,
        kv_cache_memory=kv_cache_memory,
        token_budget=2048,
        speculation=speculation,
    )
    return build_engine(config)


def request(
    number: int, kind: ConstraintKind | None = None, text: object = None, **params: Any
) -> GenerateRequest:
    """A sequence with a constraint of a kind; `text` is written as the tasks write it."""
    written = text if isinstance(text, str) else json.dumps(text)
    return GenerateRequest(
        id=number,
        model="bytes",
        prompt_ids=[40 + number % 50, 70],
        params=SamplingParams(**{"temperature": 1.5, "seed": number, "max_tokens": 64} | params),
        constraint=None if kind is None else Constraint(kind, written, kind),
    )


@dataclass
class Outcome:
    """What came out of a run, by request."""

    tokens: dict[int, list[int]] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)
    failed: dict[int, Failed] = field(default_factory=dict)
    num_preemptions: int = 0
    num_drafted: int = 0
    num_held: int = 0
    num_tokens_before_end: dict[int, Counter[int]] = field(default_factory=dict)
    """For each request that ended, how many tokens each had by then."""

    def text(self, number: int) -> str:
        tokenizer = byte_tokenizer(pair_template=False)
        return str(tokenizer.decode(self.tokens[number]))


def run(engine: Engine, requests: Iterable[GenerateRequest]) -> Outcome:
    """Steps until every request has ended; waits while constraints are compiled and there is nothing else to do."""
    has_news = threading.Event()
    engine.when_ready(has_news.set)
    outcome = Outcome()
    open_ids = set()
    for one in requests:
        engine.add(one)
        open_ids.add(one.id)
    while open_ids:
        if not engine.has_work:
            assert has_news.wait(60)
        has_news.clear()
        step = engine.step()
        if step.report is not None:
            outcome.num_preemptions += step.report.preemptions
            outcome.num_drafted += step.report.drafted_tokens
            outcome.num_held += step.report.accepted_tokens
        for output in step.outputs:
            assert output.id in open_ids, "a sequence ends once"
            if isinstance(output, Failed):
                outcome.failed[output.id] = output
            elif isinstance(output, Tokens):
                outcome.tokens.setdefault(output.id, []).extend(output.token_ids)
                if output.finish_reason is None:
                    continue
                outcome.reasons[output.id] = output.finish_reason
            open_ids.remove(output.id)
            outcome.num_tokens_before_end[output.id] = Counter(
                {number: len(ids) for number, ids in outcome.tokens.items()}
            )
    return outcome


def token_of(letter: str) -> int:
    """The id of an ASCII letter's token."""
    token_id = byte_tokenizer(pair_template=False).token_to_id(letter)
    assert token_id is not None
    return int(token_id)
