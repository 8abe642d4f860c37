"""An engine client that computes nothing: scripted texts and scores, with hooks to stall, refuse and fail."""

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from pathlib import Path

import numpy as np

from app.caller import Caller, caller
from app.engine.protocol import (
    AdapterSpec,
    Encoded,
    EncodeRequest,
    GenerateRequest,
    Hypotheses,
    Hypothesis,
    ModelInfo,
    ModelSpec,
    Ready,
    TokenLogprobs,
    Tokens,
    served_name,
)
from app.engine.questions import TracedStep
from app.errors import Overloaded
from app.tasks.served import Served, read_served
from app.timeline import Timeline

TEXT = "Grüße, 世界! Stop here. "


class FakeEngine:
    """`text` is what every sequence says, a byte a token, repeated; `gate` closed stalls it after `free_tokens`, and
    `loading` closed stalls what comes and goes."""

    def __init__(self, served: Sequence[Served]) -> None:
        self.served = {one.name: one for one in served}
        self.is_ready = True
        self.is_full = False
        self.text = TEXT
        self.delay = 0.0
        self.cached_tokens = 0
        self.free_tokens = 0
        self.failure: Exception | None = None
        self.fail_after = 0
        self.requests: list[GenerateRequest | EncodeRequest] = []
        self.loaded: list[ModelSpec | AdapterSpec] = []
        self.unloaded: list[str] = []
        self.timelines: list[Timeline] = []
        self.num_running = 0
        self.num_requests = 0
        self.num_aborted = 0
        self.gate = asyncio.Event()
        self.gate.set()
        self.loading = asyncio.Event()
        self.loading.set()
        self.changed = asyncio.Event()

    def prompts(self) -> list[list[int]]:
        """The token ids of the generate requests that came."""
        return [request.prompt_ids for request in self.requests if isinstance(request, GenerateRequest)]

    async def start(self) -> Ready:
        return Ready(models=[self._info(one.name, one.base) for one in self.served.values()], device="cpu")

    def _info(self, name: str, base: str | None) -> ModelInfo:
        one = self.served[served_name(name if base is None else base)]
        return ModelInfo(
            name=name,
            kind=one.config.kind,
            max_model_len=one.config.max_positions,
            vocab_size=one.config.vocab_size,
            parameters=1000,
            bytes=4000,
            load_seconds=0.5,
            dtype="float32",
            device="cpu",
            base=base,
        )

    async def stop(self, drain_timeout: float) -> None:
        self.is_ready = False

    async def trace(self, steps: int) -> list[TracedStep]:
        return []

    async def load_model(self, model: ModelSpec) -> ModelInfo:
        return await self._load(model, read_served(served_name(model.name), Path(model.path)), None)

    async def load_adapter(self, adapter: AdapterSpec) -> ModelInfo:
        return await self._load(adapter, self.served[served_name(adapter.base)], adapter.base)

    async def _load(self, spec: ModelSpec | AdapterSpec, one: Served, base: str | None) -> ModelInfo:
        await self.loading.wait()
        if self.failure is not None:
            raise self.failure
        self.loaded.append(spec)
        self.served[served_name(spec.name)] = one
        return self._info(spec.name, base)

    async def unload(self, name: str) -> None:
        if self.failure is not None:
            raise self.failure
        await self.loading.wait()
        self.unloaded.append(name)
        self.loaded = [spec for spec in self.loaded if spec.name != name]

    def check_room(self, caller: Caller) -> None:
        if self.is_full:
            raise Overloaded("the queue is full", retry_after=2.0)

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Tokens]:
        self._admit([request])
        async with aclosing(self._say(request)) as answers:
            async for answer in answers:
                yield answer

    async def _say(self, request: GenerateRequest) -> AsyncGenerator[Tokens]:
        self.num_running += 1
        finished = False
        timeline = self._timeline()
        try:
            for i, token_id in enumerate(self._ids(request)):
                if i >= self.free_tokens:
                    await self.gate.wait()
                if i == 0:
                    timeline.begin(time.monotonic())
                if self.failure is not None and i >= self.fail_after:
                    raise self.failure
                await asyncio.sleep(self.delay)
                is_last = i + 1 == request.params.max_tokens
                timeline.say(time.monotonic())
                yield Tokens(
                    id=1,
                    token_ids=[token_id],
                    logprobs=self._logprobs(request, token_id),
                    prompt_logprobs=self._of_prompt(request) if i == 0 else None,
                    finish_reason="length" if is_last else None,
                    cached_tokens=0 if i else self.cached_tokens,
                    queue_duration=0.001 if i == 0 else None,
                )
            finished = True
        finally:
            self.num_running -= 1
            self.num_aborted += not finished
            timeline.end(time.monotonic())

    async def generate_many(self, requests: Sequence[GenerateRequest]) -> list[Tokens]:
        self._admit(requests)
        return [await self._whole(request) for request in requests]

    async def search_many(self, requests: Sequence[GenerateRequest]) -> list[Hypotheses]:
        """Hypothesis k is k tokens shorter than the longest that the request allows."""
        self._admit(requests)
        await self.gate.wait()
        self._compute_all(requests)
        return [self._searched(request) for request in requests]

    def _searched(self, request: GenerateRequest) -> Hypotheses:
        best = []
        for k in range(request.params.num_return_sequences):
            ids = self._ids(request)[: request.params.max_tokens - k]
            told = [entry for token_id in ids for entry in self._logprobs(request, token_id) or ()]
            logprobs = None if request.params.logprobs is None else told
            best.append(Hypothesis(ids, -0.5 - k, "stop" if k else "length", logprobs))
        return Hypotheses(id=1, best=best, queue_duration=0.001)

    async def encode_many(self, requests: Sequence[EncodeRequest]) -> list[Encoded]:
        self._admit(requests)
        self.num_running += len(requests)
        finished = False
        try:
            await self.gate.wait()
            self._compute_all(requests)
            finished = True
            return [self._encoded(request) for request in requests]
        finally:
            self.num_running -= len(requests)
            self.num_aborted += 0 if finished else len(requests)

    def _admit(self, requests: Sequence[GenerateRequest] | Sequence[EncodeRequest]) -> None:
        if self.failure is not None and not self.fail_after:
            raise self.failure
        self.requests += requests
        self.timelines.append(self._timeline())
        self.timelines[-1].submit(time.monotonic(), requests)

    @staticmethod
    def _timeline() -> Timeline:
        """The request's, or one that nobody looks at."""
        asked_by = caller.get()
        return (asked_by and asked_by.timeline) or Timeline()

    def _compute_all(self, requests: Sequence[GenerateRequest] | Sequence[EncodeRequest]) -> None:
        timeline = self._timeline()
        timeline.begin(time.monotonic())
        for _ in requests:
            timeline.end(time.monotonic())

    async def _whole(self, request: GenerateRequest) -> Tokens:
        ids: list[int] = []
        logprobs: list[TokenLogprobs] = []
        async with aclosing(self._say(request)) as stream:
            async for tokens in stream:
                ids += tokens.token_ids
                logprobs += tokens.logprobs or []
        told = logprobs if request.params.logprobs is not None else None
        return Tokens(
            id=1,
            token_ids=ids,
            logprobs=told,
            prompt_logprobs=self._of_prompt(request),
            finish_reason="length",
            cached_tokens=self.cached_tokens,
            queue_duration=0.001,
        )

    def _ids(self, request: GenerateRequest) -> list[int]:
        ids = (
            self.served[served_name(request.model)].tokenizer.encode(self.text, add_special_tokens=False).ids
        )
        count = request.params.max_tokens
        return (ids * (count // len(ids) + 1))[:count]

    @staticmethod
    def _of_prompt(request: GenerateRequest) -> list[TokenLogprobs] | None:
        """The longer before a token, the likelier it is."""
        count = request.params.prompt_logprobs
        if count is None:
            return None
        places = range(1, len(request.target_ids) + 1 if request.target_ids else len(request.prompt_ids))
        return [TokenLogprobs(-1.0 / place, [(97, -0.1)][:count]) for place in places]

    @staticmethod
    def _logprobs(request: GenerateRequest, token_id: int) -> list[TokenLogprobs] | None:
        if request.params.logprobs is None:
            return None
        return [TokenLogprobs(-0.5, [(token_id, -0.5)][: request.params.logprobs])]

    def _encoded(self, request: EncodeRequest) -> Encoded:
        values: np.ndarray[tuple[int, ...], np.dtype[np.float32]]
        ids: list[int] = []
        if request.output == "class":
            values = np.arange(len(self.served[served_name(request.model)].config.labels), dtype="<f4")
            values[-1] += self._num_shared_words(request)
        elif request.output == "embedding":  # texts with the same letters are alike
            values = np.bincount(np.array(request.ids) % 8, minlength=8).astype("<f4")
        elif request.output == "token-class":
            digits = self._digits(request)
            values = np.zeros((len(digits), 3), dtype="<f4")
            for i, is_digit in enumerate(digits):  # a run of digits begins with B- and goes on with I-
                values[i, is_digit * (1 + digits[i - 1])] = 5.0
        elif request.output == "span":
            digits = self._digits(request)
            values = np.full((len(digits), 2), -5.0, dtype="<f4")
            for i, is_digit in enumerate(digits):  # every run of digits is a good answer
                values[i, 0] += 10.0 * (is_digit and not digits[i - 1])
                values[i, 1] += 10.0 * (is_digit and not digits[i + 1])
        else:
            ids = (request.candidates or list(range(97, 97 + request.top_k)))[: request.top_k]
            values = np.linspace(0.5, 0.1, len(ids), dtype="<f4").reshape(1, -1)
        return Encoded(
            id=1, shape=list(values.shape), data=values.astype("<f4").tobytes(), ids=ids, queue_duration=0.001
        )

    def _digits(self, request: EncodeRequest) -> list[bool]:
        decode = self.served[served_name(request.model)].tokenizer.decode
        return [decode([token_id]).isdigit() for token_id in request.ids]

    def _num_shared_words(self, request: EncodeRequest) -> int:
        """Of the two texts of a pair; none where a text stands alone."""
        decode = self.served[served_name(request.model)].tokenizer.decode
        typed = list(zip(request.ids, request.type_ids, strict=True))
        first, second = (
            set(re.findall(r"\w+", decode([one for one, kind in typed if kind == number])))
            for number in (0, 1)
        )
        return len(first & second)
