"""Reranking: documents in the order in which they answer a query."""

from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import ClassVar

from app.tasks.base import Engine, Task, TaskModel, Usage, sigmoid
from app.tasks.embed import Embed
from app.tasks.pairs import class_logits, shorten
from model.config import TransformerConfig


@dataclass(frozen=True)
class Ranked:
    """A document by its place in the request, and how relevant it is: the higher the better."""

    index: int
    relevance_score: float


class Rerank(Task):
    """What every way of doing it promises."""

    name: ClassVar[str] = "rerank"

    async def run(
        self,
        query: str,
        documents: Sequence[str],
        usage: Usage,
        *,
        top_n: int | None = None,
        truncate: bool = False,
    ) -> list[Ranked]:
        """The documents, best first, at most `top_n`; equals in the order of the request.

        Raises InvalidRequest for a query or document too long; `truncate` cuts documents, never the query.
        """
        scores = await self.scores(query, documents, usage, truncate)
        order = sorted(range(len(documents)), key=lambda i: -scores[i])
        return [Ranked(i, scores[i]) for i in order[:top_n]]

    @abstractmethod
    async def scores(self, query: str, documents: Sequence[str], usage: Usage, truncate: bool) -> list[float]:
        """How relevant each document is, in the same order."""


class CrossEncoderRerank(Rerank):
    """A cross-encoder reads query and document together; its one logit through a sigmoid is a score from 0 to 1."""

    @classmethod
    def fits(cls, config: TransformerConfig) -> bool:
        """A sequence-class head with one label."""
        return config.head == "sequence-class" and len(config.labels) == 1

    async def scores(self, query: str, documents: Sequence[str], usage: Usage, truncate: bool) -> list[float]:
        """One encode per document."""
        await shorten(self, [query], "query")
        pairs = [(query, document) for document in documents]
        fault = "query" if truncate else "documents"
        logits = await class_logits(self, pairs, usage, fault, cut=1 if truncate else None)
        scores: list[float] = sigmoid(logits[:, 0]).tolist()
        return scores


class EmbeddingRerank(Rerank):
    """The cosine between the query's vector and each document's."""

    def __init__(self, model: TaskModel, engine: Engine, pool: Executor) -> None:
        super().__init__(model, engine, pool)
        self._embed = Embed(model, engine, pool)

    @classmethod
    def fits(cls, config: TransformerConfig) -> bool:
        """What embeds."""
        return Embed.fits(config)

    async def scores(self, query: str, documents: Sequence[str], usage: Usage, truncate: bool) -> list[float]:
        """One encode for the query and one per document."""
        rows = await self._embed.read([query], "query")
        rows += await self._embed.read(documents, "documents", truncate)
        vectors = await self._embed.vectors(rows, usage)
        scores: list[float] = (vectors[1:] @ vectors[0]).tolist()
        return scores
