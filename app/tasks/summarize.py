"""Summaries: a whole text through an encoder-decoder that is made for them, as its makers generate."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any, ClassVar

from app.engine.protocol import GenerateRequest
from app.tasks.base import TaskModel, Usage, cut_ids
from app.tasks.completion import Piece
from app.tasks.generate import DEFAULT_MAX_TOKENS, Generate
from app.tasks.sampling import GenerateOptions
from model.config import TransformerConfig
from model.generation_config import GenerationConfig

DEFAULT_BEAMS = 4
_PUBLISHED_AS = "summarization"
_NO_LENGTH = 20
"""The `max_length` that `transformers` takes for none."""


class Summarize(Generate):
    """One source a text, never cut into sentences."""

    name: ClassVar[str] = "summarize"
    param: ClassVar[str] = "text"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.model = self.as_published()

    def as_published(self) -> TaskModel:
        """The model with what is published about how it summarizes."""
        return replace(self.model, generation=summarizing(self.model.generation))

    @classmethod
    def fits(cls, config: TransformerConfig) -> bool:
        """An encoder-decoder that is made for it: a Pegasus, or one that says how it summarizes.

        A BART says so too where it publishes a least length, which nobody sets for anything else.
        """
        if config.kind != "encoder-decoder" or config.head != "lm":
            return False
        is_bart = config.family == "bart" and bool(config.extra.get("min_length"))
        return config.family == "pegasus" or is_bart or _PUBLISHED_AS in _task_params(config)

    async def summarize(
        self, texts: Sequence[str], options: GenerateOptions, usage: Usage, *, truncate: bool = False
    ) -> list[list[str]]:
        """`n` summaries of each text. Raises InvalidRequest for a text that is too long, unless it may be cut."""
        done = await self.run(await self.prepare(texts, options, truncate), options, usage)
        return [[one.text for one in done[i : i + options.n]] for i in range(0, len(done), options.n)]

    async def stream_summary(
        self, text: str, options: GenerateOptions, usage: Usage, *, truncate: bool = False
    ) -> AsyncGenerator[Piece]:
        """One text's summary in pieces; a search's comes whole."""
        requests = await self.prepare([text], options, truncate)
        async with aclosing(self.stream(requests, options, usage)) as pieces:
            async for piece in pieces:
                yield piece

    async def prepare(
        self, texts: Sequence[str], options: GenerateOptions, truncate: bool
    ) -> list[GenerateRequest]:
        """The sequences that summarize the texts, `n` or a search for each."""
        return self.plan(await self.source_ids(texts, options, truncate), options)

    async def source_ids(
        self, texts: Sequence[str], options: GenerateOptions, truncate: bool
    ) -> list[list[int]]:
        """What the model reads of each; it may be `truncate`d."""
        prefix = _prefix(self.model.config)
        rows = [encoding.ids for encoding in await self.tokenize([prefix + text for text in texts])]
        if truncate:
            return [cut_ids(ids, self.model.special_ids, self.model.max_length) for ids in rows]
        return rows


def summarizing(published: GenerationConfig) -> GenerationConfig:
    """As the summarization pipeline of `transformers` 4 has it.

    What is published for the task comes before what is published for all, and that before the pipeline's own four beams
    and 256 tokens. Those 256 rest only where a `max_length` is published for all: the task's own does not count.
    """
    has_length = published.max_length not in (None, _NO_LENGTH)
    new_tokens = published.max_new_tokens
    if new_tokens is None and not has_length:
        new_tokens = DEFAULT_MAX_TOKENS
    num_beams = DEFAULT_BEAMS if published.num_beams == 1 else published.num_beams
    own = published.task_params.get(_PUBLISHED_AS, {})
    return replace(published, **{"max_new_tokens": new_tokens, "num_beams": num_beams, **own})


def _task_params(config: TransformerConfig) -> Mapping[str, Any]:
    published = config.extra.get("task_specific_params")
    return published if isinstance(published, Mapping) else {}


def _prefix(config: TransformerConfig) -> str:
    """The words before each text: the task's, else those for all tasks."""
    own = _task_params(config).get(_PUBLISHED_AS)
    prefix = own.get("prefix") if isinstance(own, Mapping) else None
    prefix = config.extra.get("prefix") if prefix is None else prefix
    return prefix if isinstance(prefix, str) else ""
