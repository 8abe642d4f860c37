"""Text generation, whole or piece by piece: prompts in, continued (decoder) or answered (encoder-decoder) texts out."""

from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

import msgspec

from app.engine.protocol import Constraint, GenerateRequest, Hypotheses, TokenLogprobs, Tokens
from app.errors import InvalidRequest
from app.tasks.base import Task, Usage
from app.tasks.clock import TokenClock
from app.tasks.completion import Completion, Piece, likeliest, told_logprobs
from app.tasks.concurrency import gather_or_cancel, merge
from app.tasks.detokenizer import CONTEXT_TOKENS, Detokenizer
from app.tasks.sampling import GenerateOptions, make_options, with_limits
from model.config import TransformerConfig

DEFAULT_MAX_TOKENS = 256


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
        elif values.get("prompt_logprobs") is not None:
            raise InvalidRequest("only a decoder tells of its prompt's tokens", "prompt_logprobs")
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
        """What goes to the engine: each prompt n times in a row, or once where a search finds the n texts.

        Raises InvalidRequest for what does not fit the context.
        """
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
            constraint = self._placed(row, options)
            requests += [
                GenerateRequest(
                    model=self.model.address,
                    prompt_ids=row,
                    params=params,
                    index=len(requests) + i,
                    priority=options.priority,
                    constraint=constraint,
                )
                for i in range(options.num_sequences)
            ]
        return requests

    def _placed(self, prompt: Sequence[int], options: GenerateOptions) -> Constraint | None:
        """The constraint behind this prompt: some tokenizers drop a blank at the beginning of what they decode."""
        if options.constraint is None:
            return None
        opens_text = not self.model.tokenizer.decode(self._before(prompt, options))
        return msgspec.structs.replace(options.constraint, opens_text=opens_text)

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
        """Whole texts, prompts × n in order; counts into `usage`."""
        usage.prompt_tokens += count_prompt_tokens(requests, options)
        if options.params.num_beams > 1:
            return await self._search(requests, options, usage)
        return likeliest(await self._run_all(requests, options, usage), options)

    async def _run_all(
        self, requests: Sequence[GenerateRequest], options: GenerateOptions, usage: Usage
    ) -> list[Completion]:
        """What each request says, in their order."""
        if options.stop:
            return await gather_or_cancel([self._collect(request, options, usage) for request in requests])
        answers = await self._all_tokens(requests, usage)

        def read() -> list[str]:
            pairs = zip(requests, answers, strict=True)
            return [_read_all(self._reader(one, options), answer.token_ids) for one, answer in pairs]

        texts = await self.offload(8 * sum(len(answer.token_ids) for answer in answers), read)
        completions = []
        for request, answer, text in zip(requests, answers, texts, strict=True):
            usage.add_tokens(answer)
            usage.add_end(answer.finish_reason)
            usage.cached_tokens += _count_cached(answer, request, options)
            told = answer.logprobs, answer.prompt_logprobs
            completions.append(Completion(text, answer.token_ids, answer.finish_reason or "stop", *told))
        return completions

    async def _search(
        self, requests: Sequence[GenerateRequest], options: GenerateOptions, usage: Usage
    ) -> list[Completion]:
        answers = await self.engine.search_many(requests)
        found: list[Completion] = []
        for request, answer in zip(requests, answers, strict=True):
            found += await self._found(request, answer, options, usage)
        return found

    async def _found(
        self, request: GenerateRequest, answer: Hypotheses, options: GenerateOptions, usage: Usage
    ) -> list[Completion]:
        """The texts that a search found, best first, each cut at its first stop string."""
        usage.add_hypotheses(answer)
        found = []
        for text in answer.best:
            reader = self._reader(request, options)
            content = await self.offload(8 * len(text.token_ids), partial(_read_all, reader, text.token_ids))
            reason = "stop" if reader.is_stopped else text.finish_reason
            num_read = reader.num_tokens
            logprobs = None if text.logprobs is None else text.logprobs[:num_read]
            ids = text.token_ids[:num_read]
            usage.add_end(reason)
            found.append(Completion(content, ids, reason, logprobs, is_stopped=reader.is_stopped))
        return found

    async def _all_tokens(self, requests: Sequence[GenerateRequest], usage: Usage) -> list[Tokens]:
        """Everything that each sequence says; a single one is timed token by token."""
        if len(requests) != 1:
            return await self.engine.generate_many(requests)
        ids: list[int] = []
        logprobs: list[TokenLogprobs] = []
        clock = TokenClock(usage)
        cached_tokens = 0
        of_prompt: list[TokenLogprobs] | None = None
        whole: Tokens | None = None
        async with aclosing(self.engine.generate(requests[0])) as answers:
            async for answer in answers:
                clock.tick(len(answer.token_ids))
                usage.add_wait(answer)
                ids += answer.token_ids
                cached_tokens += answer.cached_tokens
                logprobs += answer.logprobs or ()
                of_prompt = answer.prompt_logprobs if of_prompt is None else of_prompt
                whole = answer
        clock.stop()
        assert whole is not None
        told = logprobs if requests[0].params.logprobs is not None else None
        return [
            msgspec.structs.replace(
                whole,
                token_ids=ids,
                logprobs=told,
                prompt_logprobs=of_prompt,
                cached_tokens=cached_tokens,
                queue_duration=None,
            )
        ]

    def stream(
        self, requests: Sequence[GenerateRequest], options: GenerateOptions, usage: Usage
    ) -> AsyncGenerator[Piece]:
        """Pieces of all sequences as they come; closing it aborts what still runs. A search's texts come whole."""
        usage.prompt_tokens += count_prompt_tokens(requests, options)
        pieces = self._pieces if options.params.num_beams == 1 else self._searched
        streams = [pieces(i, request, options, usage) for i, request in enumerate(requests)]
        return streams[0] if len(streams) == 1 else merge(streams)

    async def _pieces(
        self, index: int, request: GenerateRequest, options: GenerateOptions, usage: Usage
    ) -> AsyncGenerator[Piece]:
        """One sequence's pieces; ends it at the first stop string."""
        reader = self._reader(request, options)
        piece = Piece(index, "", [])
        of_prompt: list[TokenLogprobs] | None = None
        clock = TokenClock(usage)
        async with aclosing(self.engine.generate(request)) as answers:
            async for answer in answers:
                before = reader.num_tokens
                of_prompt = answer.prompt_logprobs if of_prompt is None else of_prompt
                piece.text += reader.add(answer.token_ids)
                num_read = reader.num_tokens - before
                clock.tick(num_read)
                usage.add_tokens(answer, num_read)
                usage.cached_tokens += _count_cached(answer, request, options)
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
        usage.add_end(piece.finish_reason)
        piece.prompt_logprobs, piece.is_stopped = of_prompt, reader.is_stopped
        yield piece

    async def _searched(
        self, index: int, request: GenerateRequest, options: GenerateOptions, usage: Usage
    ) -> AsyncGenerator[Piece]:
        """The texts of one search, a piece each, once it is done; until then nobody knows how they begin."""
        texts = await self._search([request], options, usage)
        for place, one in enumerate(texts, options.n * index):
            yield Piece(
                place, one.text, one.token_ids, one.finish_reason, one.logprobs, is_stopped=one.is_stopped
            )

    async def _collect(self, request: GenerateRequest, options: GenerateOptions, usage: Usage) -> Completion:
        """One sequence whole, which may end at a stop string."""
        whole = Completion("", [], "stop")
        async with aclosing(self._pieces(0, request, options, usage)) as pieces:
            async for piece in pieces:
                whole.text += piece.text
                whole.token_ids += piece.token_ids
                whole.finish_reason = piece.finish_reason or "stop"
                whole.prompt_logprobs, whole.is_stopped = piece.prompt_logprobs, piece.is_stopped
                if piece.logprobs is not None:
                    whole.logprobs = [*(whole.logprobs or ()), *piece.logprobs]
        return whole

    def told_logprobs(self, ids: Sequence[int], logprobs: Sequence[TokenLogprobs]) -> list[dict[str, Any]]:
        """See `completion.told_logprobs`."""
        return told_logprobs(self.model.tokenizer, ids, logprobs)

    def _reader(self, request: GenerateRequest, options: GenerateOptions) -> Detokenizer:
        """A decoder's text goes on from its prompt, so that the prompt's last tokens decide on a leading blank."""
        before = self._before(request.prompt_ids, options)
        return Detokenizer(self.model.tokenizer, options.stop, options.params.min_tokens, before)

    def _before(self, prompt: Sequence[int], options: GenerateOptions) -> Sequence[int]:
        """The tokens that the output's first ones are decoded with."""
        goes_on = options.continues_prompt and self.model.config.kind == "decoder"
        return prompt[-CONTEXT_TOKENS:] if goes_on else ()


def count_prompt_tokens(requests: Sequence[GenerateRequest], options: GenerateOptions) -> int:
    """Each prompt once, however many texts were asked for."""
    return sum(len(request.prompt_ids) for request in requests[:: options.num_sequences])


def _count_cached(answer: Tokens, request: GenerateRequest, options: GenerateOptions) -> int:
    """Of each prompt once, too: what its other texts took over was computed for the first."""
    return 0 if request.index % options.num_sequences else answer.cached_tokens


def _read_all(reader: Detokenizer, ids: Sequence[int]) -> str:
    return reader.add(ids) + reader.finish()
