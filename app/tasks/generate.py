"""Text generation, whole or piece by piece: prompts in, continued (decoder) or answered (encoder-decoder) texts out."""

import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import msgspec

from app.engine.protocol import Constraint, FinishReason, GenerateRequest, TokenLogprobs, Tokens
from app.errors import InvalidRequest
from app.tasks.base import Task, Usage
from app.tasks.concurrency import gather_or_cancel, merge
from app.tasks.detokenizer import CONTEXT_TOKENS, Detokenizer
from app.tasks.sampling import GenerateOptions, make_options, with_limits
from model.config import TransformerConfig

DEFAULT_MAX_TOKENS = 256


@dataclass(slots=True)
class Piece:
    """News of one sequence; `index` counts prompts × n. The last piece has the finish reason."""

    index: int
    text: str
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    logprobs: list[TokenLogprobs] | None = None


@dataclass(slots=True)
class Completion:
    """A whole text."""

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    logprobs: list[TokenLogprobs] | None = None


class Generate(Task):
    """One sequence per prompt and text wanted."""

    name: ClassVar[str] = "generate"
    param: ClassVar[str] = "prompt"
    """The request field that holds the texts, for error messages."""

    @classmethod
    def fits(cls, config: TransformerConfig) -> bool:
        """A decoder, alone or behind an encoder, with an LM head."""
        return config.kind in ("decoder", "encoder-decoder") and config.head == "lm"

    def options(self, values: Mapping[str, Any], temperature: float) -> GenerateOptions:
        """A request's parameters with the defaults filled in. Raises InvalidRequest that names the field."""
        published, forced = self.model.generation, values.get("forced_bos_token")
        if self.model.config.kind == "decoder":
            if forced is not None:
                raise InvalidRequest("a decoder's prompt can end with any token", "forced_bos_token")
            published = replace(published, forced_bos_token_id=None)  # its output goes on from the prompt
        if isinstance(forced, str):
            values = {**values, "forced_bos_token": self._token_id(forced, "forced_bos_token")}
        return make_options(values, published, temperature=temperature, vocab_size=self.model.vocab_size)

    def _token_id(self, token: str, param: str) -> int:
        token_id = self.model.tokenizer.token_id(token)
        if token_id is None:
            raise InvalidRequest(f"{self.model.name!r} has no token {token[:100]!r}", param)
        return token_id

    async def prompt_ids(self, prompts: Sequence[str] | Sequence[list[int]]) -> list[list[int]]:
        """Token ids of texts; ready ids are checked against the vocabulary."""
        texts = [prompt for prompt in prompts if isinstance(prompt, str)]
        if texts:
            return [encoding.ids for encoding in await self.tokenize(texts)]
        rows = [prompt for prompt in prompts if not isinstance(prompt, str)]
        for row in rows:
            if row and max(row) >= self.model.vocab_size:
                raise InvalidRequest(f"token ids must be below {self.model.vocab_size}", self.param)
        return rows

    def plan(self, rows: Sequence[list[int]], options: GenerateOptions) -> list[GenerateRequest]:
        """What goes to the engine, prompts × n in order. Raises InvalidRequest for what does not fit the context."""
        requests: list[GenerateRequest] = []
        for row in rows:
            if not row:
                raise InvalidRequest("the text has no tokens", self.param)
            is_forced = options.params.forced_bos_token is not None
            most = self.max_tokens(len(row), options.max_tokens, is_forced)
            least = options.min_tokens
            if least is None:
                least = min(most, self._published_minimum(len(row), is_forced))
            params = with_limits(options.params, most, least)
            constraint = self._placed(options.constraint, row)
            requests += [
                GenerateRequest(
                    model=self.model.name,
                    prompt_ids=row,
                    params=params,
                    index=len(requests) + i,
                    priority=options.priority,
                    constraint=constraint,
                )
                for i in range(options.n)
            ]
        return requests

    def _placed(self, constraint: Constraint | None, prompt: Sequence[int]) -> Constraint | None:
        """The constraint behind this prompt: some tokenizers drop a blank at the beginning of what they decode."""
        if constraint is None:
            return None
        return msgspec.structs.replace(
            constraint, opens_text=not self.model.tokenizer.decode(self._before(prompt))
        )

    def max_tokens(self, prompt_tokens: int, wanted: int | None, is_forced: bool) -> int:
        """How many tokens may be generated behind a prompt, and behind a first token where that `is_forced`."""
        self.check_length(prompt_tokens, self.param)
        limit = self.model.max_length
        if self.model.config.kind == "encoder-decoder":
            room, default = limit, self._published_limit(is_forced) or DEFAULT_MAX_TOKENS
        else:
            room, default = limit - prompt_tokens, DEFAULT_MAX_TOKENS
        if wanted is None:
            wanted = min(default, room)
        if wanted > room or room < 1:
            raise InvalidRequest(
                f"{prompt_tokens} prompt tokens and max_tokens {wanted} are over the {limit} of {self.model.name!r}",
                "max_tokens",
                "too_long",
            )
        return wanted

    def _published_limit(self, is_forced: bool) -> int | None:
        """Published lengths count the start token and what is forced behind it; ours count what is generated."""
        published = self.model.generation
        if published.max_new_tokens is not None:
            return max(1, published.max_new_tokens - is_forced)
        if published.max_length is None:
            return None
        return max(1, published.max_length - (2 if is_forced else 1))

    def _published_minimum(self, prompt_tokens: int, is_forced: bool) -> int:
        """The same for the minimum, which counts a decoder's prompt unless it says `new`."""
        published = self.model.generation
        if published.min_new_tokens is not None:
            return max(0, published.min_new_tokens - is_forced)
        given = prompt_tokens if self.model.config.kind == "decoder" else 1 + is_forced
        return max(0, (published.min_length or 0) - given)

    async def run(
        self, requests: Sequence[GenerateRequest], options: GenerateOptions, usage: Usage
    ) -> list[Completion]:
        """Whole texts, in the order of `requests`; counts into `usage`."""
        usage.prompt_tokens += count_prompt_tokens(requests, options)
        if options.stop:
            return await gather_or_cancel([self._collect(request, options, usage) for request in requests])
        answers = await self._all_tokens(requests, usage)
        completions = []
        for request, answer in zip(requests, answers, strict=True):
            usage.add_tokens(answer)
            reader = self._reader(request, options)
            ids = answer.token_ids
            text = await self.offload(8 * len(ids), partial(_read_all, reader, ids))
            completions.append(Completion(text, ids, answer.finish_reason or "stop", answer.logprobs))
        return completions

    async def _all_tokens(self, requests: Sequence[GenerateRequest], usage: Usage) -> list[Tokens]:
        """Everything that each sequence says; a single one is timed token by token."""
        if len(requests) != 1:
            return await self.engine.generate_many(requests)
        ids: list[int] = []
        logprobs: list[TokenLogprobs] = []
        clock = _Clock(usage)
        whole: Tokens | None = None
        async with aclosing(self.engine.generate(requests[0])) as answers:
            async for answer in answers:
                clock.tick(len(answer.token_ids))
                usage.add_wait(answer)
                ids += answer.token_ids
                logprobs += answer.logprobs or ()
                whole = answer
        clock.stop()
        assert whole is not None
        told = logprobs if requests[0].params.logprobs is not None else None
        return [msgspec.structs.replace(whole, token_ids=ids, logprobs=told, queue_duration=None)]

    async def stream(
        self, requests: Sequence[GenerateRequest], options: GenerateOptions, usage: Usage
    ) -> AsyncGenerator[Piece]:
        """Pieces of all sequences as they come; closing it aborts what still runs."""
        usage.prompt_tokens += count_prompt_tokens(requests, options)
        streams = [self._pieces(i, request, options, usage) for i, request in enumerate(requests)]
        merged = streams[0] if len(streams) == 1 else merge(streams)
        async with aclosing(merged):
            async for piece in merged:
                yield piece

    async def _pieces(
        self, index: int, request: GenerateRequest, options: GenerateOptions, usage: Usage
    ) -> AsyncGenerator[Piece]:
        """One sequence's pieces; ends it at the first stop string."""
        reader = self._reader(request, options)
        piece = Piece(index, "", [])
        clock = _Clock(usage)
        async with aclosing(self.engine.generate(request)) as answers:
            async for answer in answers:
                before = reader.num_tokens
                piece.text += reader.add(answer.token_ids)
                num_read = reader.num_tokens - before
                clock.tick(num_read)
                usage.add_tokens(answer, num_read)
                piece.token_ids += answer.token_ids[:num_read]
                if answer.logprobs is not None:
                    piece.logprobs = [*(piece.logprobs or ()), *answer.logprobs[:num_read]]
                if answer.finish_reason is not None or reader.is_stopped:
                    piece.text += reader.finish()
                    piece.finish_reason = "stop" if reader.is_stopped else answer.finish_reason
                    break
                if piece.text:
                    yield piece
                    piece = Piece(index, "", [])
        clock.stop()
        yield piece

    async def _collect(self, request: GenerateRequest, options: GenerateOptions, usage: Usage) -> Completion:
        """One sequence whole, which may end at a stop string."""
        whole = Completion("", [], "stop")
        async with aclosing(self._pieces(0, request, options, usage)) as pieces:
            async for piece in pieces:
                whole.text += piece.text
                whole.token_ids += piece.token_ids
                whole.finish_reason = piece.finish_reason or "stop"
                if piece.logprobs is not None:
                    whole.logprobs = [*(whole.logprobs or ()), *piece.logprobs]
        return whole

    def told_logprobs(self, ids: Sequence[int], logprobs: Sequence[TokenLogprobs]) -> list[dict[str, Any]]:
        """Per token its text, id and log-probability, and those of the likeliest in its place."""
        return [
            {
                **self._told(token_id, entry.logprob),
                "top": [self._told(top_id, logprob) for top_id, logprob in entry.top],
            }
            for token_id, entry in zip(ids, logprobs, strict=True)
        ]

    def _told(self, token_id: int, logprob: float) -> dict[str, Any]:
        return {"token": self.token_text(token_id), "id": token_id, "logprob": logprob}

    def token_text(self, token_id: int) -> str:
        """One token as text; special tokens as they are spelled."""
        return self.model.tokenizer.decode([token_id], skip_special_tokens=False)

    def _reader(self, request: GenerateRequest, options: GenerateOptions) -> Detokenizer:
        """A decoder's text goes on from its prompt, so that the prompt's last tokens decide on a leading blank."""
        before = self._before(request.prompt_ids)
        return Detokenizer(self.model.tokenizer, options.stop, options.params.min_tokens, before)

    def _before(self, prompt: Sequence[int]) -> Sequence[int]:
        """The tokens that the output's first ones are decoded with."""
        return prompt[-CONTEXT_TOKENS:] if self.model.config.kind == "decoder" else ()


class _Clock:
    """When one sequence's tokens came: the first one's time, and the mean gap between them."""

    def __init__(self, usage: Usage) -> None:
        self._usage = usage
        self._first = self._last = 0.0
        self._count = 0

    def tick(self, num_tokens: int) -> None:
        """So many tokens are here now."""
        self._last = time.monotonic()
        if not self._count:
            self._first = self._last
            self._usage.first_token_at = self._usage.first_token_at or self._last
        self._count += num_tokens

    def stop(self) -> None:
        """The sequence ended."""
        if self._count > 1:
            self._usage.token_gaps.append((self._last - self._first) / (self._count - 1))


def count_prompt_tokens(requests: Sequence[GenerateRequest], options: GenerateOptions) -> int:
    """Each prompt once, however many texts were asked for."""
    return sum(len(request.prompt_ids) for request in requests[:: options.n])


def _read_all(reader: Detokenizer, ids: Sequence[int]) -> str:
    return reader.add(ids) + reader.finish()
