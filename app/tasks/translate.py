"""Translation: sentence by sentence through an encoder-decoder, joined with the original spacing."""

import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import msgspec

from app.engine.protocol import GenerateRequest
from app.errors import InvalidRequest
from app.tasks.base import Usage, cut_ids
from app.tasks.completion import Completion, Piece
from app.tasks.generate import Generate
from app.tasks.languages import Languages, Way, find_languages, matching, translates
from app.tasks.sampling import GenerateOptions
from app.tasks.sentences import halve, has_letters, split_sentences
from model.config import TransformerConfig


@dataclass(frozen=True)
class Alternative:
    """One translation; `score` is the geometric mean of its tokens' probabilities, 1 for text that came back as is."""

    text: str
    score: float


@dataclass(frozen=True)
class TranslateOptions:
    """Language codes, and how the text is generated. `source` None takes the only one that fits, or the default.

    `forces_token`: the first token is the request's own, and is not to be the target's. `truncate` cuts a text that the
    model cannot hold.
    """

    generate: GenerateOptions
    target: str
    source: str | None = None
    split_sentences: bool = True
    forces_token: bool = False
    truncate: bool = False


@dataclass(frozen=True)
class _Plan:
    """A text as pieces; `slots[i]` is the number of piece i's first request, None for what stays as it is."""

    pieces: list[str]
    slots: list[int | None]


class Translate(Generate):
    """Many sentences are one batch: all sequences of a request are handed to the engine at once."""

    name: ClassVar[str] = "translate"
    param: ClassVar[str] = "text"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.languages = self.find_languages()

    def find_languages(self) -> Languages:
        """What the checkpoint translates."""
        return find_languages(self.model.name, self.model.config, self.model.tokenizer)

    @classmethod
    def fits(cls, config: TransformerConfig) -> bool:
        """An encoder-decoder that is made for translation, or names its language pairs."""
        return translates(config)

    async def translate(
        self, texts: Sequence[str], options: TranslateOptions, usage: Usage
    ) -> list[list[Alternative]]:
        """`n` alternatives of each text, best first: by score, or as a beam search ranks them.

        Raises InvalidRequest for what the model cannot do or hold.
        """
        plans, requests = await self.prepare(texts, options)
        done = await self.run(requests, options.generate, usage) if requests else []
        every = [[_joined(plan, done, k) for k in range(options.generate.n)] for plan in plans]
        return every if options.generate.params.num_beams > 1 else [_ranked(one) for one in every]

    async def stream_translation(
        self, text: str, options: TranslateOptions, usage: Usage
    ) -> AsyncGenerator[Piece]:
        """One text's pieces in reading order, the spacing between sentences among them; sentences still run at once."""
        plans, requests = await self.prepare([text], options)
        async with aclosing(self._ordered(plans[0], requests, options, usage)) as pieces:
            async for piece in pieces:
                yield piece

    async def prepare(
        self, texts: Sequence[str], options: TranslateOptions
    ) -> tuple[list[_Plan], list[GenerateRequest]]:
        """The pieces of each text, and the sequences that translate them, `n` for each piece."""
        way = self.languages.way(options.source, options.target)
        cut, ids = await self.pieces(texts, options, way)
        rows = [ids[piece] for pieces in cut for piece in pieces if piece in ids]
        requests = self.plan(rows, _asked(options, way))
        plans, slot = [], 0
        for pieces in cut:
            slots: list[int | None] = []
            for piece in pieces:
                slots.append(slot if piece in ids else None)
                slot += options.generate.n if slots[-1] is not None else 0
            plans.append(_Plan(pieces, slots))
        return plans, requests

    async def pieces(
        self, texts: Sequence[str], options: TranslateOptions, way: Way
    ) -> tuple[list[list[str]], dict[str, list[int]]]:
        """The pieces of each text, and what the model reads of those that have something to translate."""
        is_split = options.split_sentences
        cut, ids = await self.offload(sum(map(len, texts)), lambda: self._cut(texts, way, is_split=is_split))
        if options.truncate:
            special, most = self.model.special_ids, self.model.max_length
            ids = {piece: cut_ids(row, special, most) for piece, row in ids.items()}
        return cut, ids

    def only_target(self, source: str | None) -> str:
        """The language that texts go into where a request names none: the only one there is. Raises InvalidRequest."""
        told = self.languages.told()
        pairs = [pair for pair in told.get("pairs", ()) if source is None or matching(source, [pair[0]])]
        targets = dict.fromkeys([pair[1] for pair in pairs] + told.get("any", []) + told.get("target", []))
        if len(targets) > 1:
            raise InvalidRequest("say which language to translate into", "target", "missing_parameter")
        return next(iter(targets), "")

    def _cut(
        self, texts: Sequence[str], way: Way, *, is_split: bool
    ) -> tuple[list[list[str]], dict[str, list[int]]]:
        """Where sentences may be split, one that is longer than the model can hold is halved until it is not."""
        cut = [split_sentences(text) if is_split else [text] for text in texts]
        ids: dict[str, list[int]] = {}
        while True:
            every = dict.fromkeys(piece for pieces in cut for piece in pieces)
            new = [piece for piece in every if piece not in ids and has_letters(piece)]
            if not new:
                return cut, ids
            told = self.model.tokenizer.encode_batch(
                [way.prefix + piece for piece in new], language=way.language
            )
            ids |= {piece: encoding.ids for piece, encoding in zip(new, told, strict=True)}
            large = {piece for piece in new if len(ids[piece]) > self.model.max_length and len(piece) > 1}
            if is_split and large:
                cut = [
                    [part for piece in pieces for part in (halve(piece) if piece in large else [piece])]
                    for pieces in cut
                ]

    def max_tokens(self, prompt_tokens: int, wanted: int | None, is_forced: bool) -> int:
        """Left out, the limit grows with the sentence: no translation is thrice as long as its source."""
        limit = super().max_tokens(prompt_tokens, wanted, is_forced)
        return limit if wanted is not None else min(limit, 3 * prompt_tokens + 32)

    async def _ordered(
        self, plan: _Plan, requests: list[GenerateRequest], options: TranslateOptions, usage: Usage
    ) -> AsyncGenerator[Piece]:
        """Holds back what later sentences say until those before them are done."""
        early: dict[int, list[Piece]] = {}
        finished: set[int] = set()
        news = self.stream(requests, _scored(options.generate), usage) if requests else None
        reason: Any = "stop"
        for piece, slot in zip(plan.pieces, plan.slots, strict=True):
            if slot is None:
                yield Piece(0, piece, [])
                continue
            for held in early.pop(slot, ()):
                yield replace(held, index=0, finish_reason=None)
            while slot not in finished and news is not None:
                got = await anext(news)
                if got.finish_reason is not None:
                    finished.add(got.index)
                    reason = got.finish_reason if got.finish_reason != "stop" else reason
                if got.index == slot:
                    yield replace(got, index=0, finish_reason=None)
                else:
                    early.setdefault(got.index, []).append(got)
        if news is not None:
            await news.aclose()
        yield Piece(0, "", [], finish_reason=reason)


def _asked(options: TranslateOptions, way: Way) -> GenerateOptions:
    """What the engine is asked for: the target's token first, where the checkpoint has one, and scores."""
    scored = _scored(options.generate)
    if way.first_token is None or options.forces_token:
        return scored
    return replace(scored, params=msgspec.structs.replace(scored.params, forced_bos_token=way.first_token))


def _scored(options: GenerateOptions) -> GenerateOptions:
    """The same, with the log-probabilities that the score needs."""
    if options.params.logprobs is not None:
        return replace(options, hides_logprobs=False)
    return replace(options, params=msgspec.structs.replace(options.params, logprobs=0), hides_logprobs=False)


def _joined(plan: _Plan, done: Sequence[Completion], alternative: int) -> Alternative:
    """The text of one alternative, its spacing kept, and the mean over all its tokens."""
    text, logprobs = "", []
    for piece, slot in zip(plan.pieces, plan.slots, strict=True):
        if slot is None:
            text += piece
            continue
        completion = done[slot + alternative]
        text += completion.text
        logprobs += [entry.logprob for entry in completion.logprobs or ()]
    return Alternative(text, math.exp(sum(logprobs) / len(logprobs)) if logprobs else 1.0)


def _ranked(alternatives: list[Alternative]) -> list[Alternative]:
    return sorted(alternatives, key=lambda alternative: -alternative.score)
