"""What all tasks share: the model they work on, the engine they ask, what they count, the pool for long texts."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from app.engine.protocol import Encoded, EncodeRequest, GenerateRequest, Hypotheses, Tokens
from app.errors import InvalidRequest
from app.tasks.prompts import PROMPTS, Prompts
from model.config import TransformerConfig
from model.generation_config import GenerationConfig
from model.tokenization import Encoding, TextOrPair, Tokenizer
from model.tokenization.chat_template import ChatTemplate

LONG_TEXT = 4096
"""Characters; more than this is tokenized in the thread pool, so that it does not stall the event loop."""

MOST_REASONS = 32

T = TypeVar("T")


class Engine(Protocol):
    """The part of `EngineClient` that tasks use. Cancelling any of these aborts its sequences."""

    def generate(self, request: GenerateRequest) -> AsyncGenerator[Tokens]: ...

    async def generate_many(self, requests: Sequence[GenerateRequest]) -> list[Tokens]: ...

    async def search_many(self, requests: Sequence[GenerateRequest]) -> list[Hypotheses]: ...

    async def encode_many(self, requests: Sequence[EncodeRequest]) -> list[Encoded]: ...


@dataclass(frozen=True)
class TaskModel:
    """A served model as the tasks see it; `max_length` is in tokens."""

    name: str
    config: TransformerConfig
    tokenizer: Tokenizer
    max_length: int
    vocab_size: int
    special_ids: frozenset[int] = frozenset()
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    """How the checkpoint's makers generate with it, for what a request leaves out."""
    chat_template: ChatTemplate | None = None
    prompts: Mapping[str, str] = field(default_factory=dict)
    """What a sentence encoder's makers put before texts, by the use they name it after."""
    cache_tokens: int | None = None
    """How many tokens the whole cache holds, where there is one."""
    task_prompts: Prompts = PROMPTS
    """What it is told to do for a task that it is not made for."""
    engine_name: str = ""
    """What the engine knows its weights by; empty: the same name."""

    @property
    def address(self) -> str:
        """Which weights requests ask for."""
        return self.engine_name or self.name

    @property
    def room(self) -> int:
        """Tokens that one text and its answer may have: the context's, or the whole cache's where that holds less."""
        return min(self.max_length, self.cache_tokens or self.max_length)


@dataclass
class Usage:
    """What one request cost, counted while it is worked on: tokens for its answer, times in seconds for the metrics."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    queue_durations: list[float] = field(default_factory=list)
    first_token_at: float | None = None
    finish_reasons: list[str] = field(default_factory=list)
    """Of the first MOST_REASONS texts that ended."""
    token_gaps: list[float] = field(default_factory=list)
    """The mean gap between the tokens of each sequence that ended with at least two."""

    def as_dict(self) -> dict[str, int]:
        """The contract's shape."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "cached_tokens": self.cached_tokens,
        }

    def add_tokens(self, answer: Tokens, num_read: int | None = None) -> None:
        """Counts new tokens: all, or the first `num_read` where a stop string cut the rest."""
        self.add_wait(answer)
        self.completion_tokens += len(answer.token_ids) if num_read is None else num_read

    def add_end(self, reason: str | None) -> None:
        """Notes why a text ended."""
        if len(self.finish_reasons) < MOST_REASONS:
            self.finish_reasons.append(reason or "stop")

    def add_hypotheses(self, answer: Hypotheses) -> None:
        """Counts the tokens of the texts that are handed out, not those of the other beams."""
        self.add_wait(answer)
        self.completion_tokens += sum(len(text.token_ids) for text in answer.best)
        self.cached_tokens += answer.cached_tokens
        self.first_token_at = self.first_token_at or time.monotonic()

    def add_wait(self, answer: Tokens | Hypotheses | Encoded) -> None:
        """Notes how long a sequence waited; only its first message says."""
        if answer.queue_duration is not None:
            self.queue_durations.append(answer.queue_duration)


class Task(ABC):
    """One thing that one served model can do; made by the registry once the engine is up."""

    name: ClassVar[str]

    def __init__(self, model: TaskModel, engine: Engine, pool: Executor) -> None:
        self.model = model
        self.engine = engine
        self.pool = pool

    @classmethod
    @abstractmethod
    def fits(cls, config: TransformerConfig) -> bool:
        """Whether a checkpoint of this shape can do it."""

    async def tokenize(self, texts: Sequence[TextOrPair], language: str | None = None) -> list[Encoding]:
        """Encodes all, in the same order; long input off the event loop. `language` is the tokenizer's."""
        size = sum(len(text) if isinstance(text, str) else len(text[0]) + len(text[1]) for text in texts)
        return await self.offload(size, lambda: self.model.tokenizer.encode_batch(texts, language=language))

    async def encode(self, requests: Sequence[EncodeRequest], usage: Usage) -> list[Encoded]:
        """The engine's answers, in order, counted."""
        answers = await self.engine.encode_many(requests)
        usage.prompt_tokens += sum(len(request.ids) for request in requests)
        for answer in answers:
            usage.add_wait(answer)
            usage.cached_tokens += answer.cached_tokens
        return answers

    async def offload(self, size: int, work: Callable[[], T]) -> T:
        """`offload` to this task's pool."""
        return await offload(self.pool, size, work)

    def check_length(self, num_tokens: int, param: str) -> None:
        """Raises InvalidRequest for an input that the model cannot hold; nothing is cut silently."""
        if num_tokens > self.model.max_length:
            raise InvalidRequest(
                f"the input has {num_tokens} tokens, {self.model.name!r} takes at most {self.model.max_length}",
                param,
                "too_long",
            )


async def offload(pool: Executor, size: int, work: Callable[[], T]) -> T:
    """Runs `work` here when `size` (characters, or so) is small, else in the thread pool."""
    if size <= LONG_TEXT:
        return work()
    return await asyncio.get_running_loop().run_in_executor(pool, work)


def to_array(answer: Encoded) -> npt.NDArray[np.float32]:
    """The engine's bytes as an array."""
    return np.frombuffer(answer.data, dtype="<f4").reshape(answer.shape)


def softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Over the last axis."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    probabilities: npt.NDArray[np.float64] = shifted / shifted.sum(axis=-1, keepdims=True)
    return probabilities


def sigmoid(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Of each, without overflow."""
    probabilities: npt.NDArray[np.float64] = np.exp(-np.logaddexp(0.0, -logits.astype(np.float64)))
    return probabilities


Side = Literal["left", "right"]


def cut_ids(ids: list[int], special: frozenset[int], limit: int, side: Side = "right") -> list[int]:
    """The first tokens, `limit` in all, the special tokens at the end kept; or the last ones, cut on the left, those at
    the beginning kept."""
    if len(ids) <= limit:
        return ids
    if side == "left":
        return cut_ids(ids[::-1], special, limit)[::-1]
    tail = len(ids)
    while tail and ids[tail - 1] in special:
        tail -= 1
    kept = ids[tail:][:limit]
    return ids[: limit - len(kept)] + kept
