"""Zero-shot classification by any generative checkpoint: how likely it is to say each label."""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from itertools import takewhile
from typing import ClassVar

import numpy as np

from app.engine.protocol import GenerateRequest
from app.engine.sampling_params import SamplingParams
from app.errors import InvalidRequest
from app.tasks.base import Engine, TaskModel, Usage, softmax
from app.tasks.classify import Label, rank
from app.tasks.prompting import Prompter, generates
from app.tasks.zero_shot import DEFAULTS, ZeroShot, ZeroShotOptions, check_number_of_pairs
from model.config import TransformerConfig

_SCORED = SamplingParams(max_tokens=1, prompt_logprobs=0)
"""The token that is generated behind a label is thrown away."""


class GenerativeZeroShot(ZeroShot):
    """One sequence per text and label; the text's prompt is computed once and found in the cache by the others."""

    method: ClassVar[str] = "likelihood"

    def __init__(self, model: TaskModel, engine: Engine, pool: Executor) -> None:
        super().__init__(model, engine, pool)
        self._prompter = Prompter(model, engine, pool, "classify", cut="text", param="text")
        self._is_plain = model.config.kind == "decoder" and model.chat_template is None

    @classmethod
    def fits(cls, config: TransformerConfig) -> bool:
        """See `generates`."""
        return generates(config)

    async def run(
        self,
        texts: Sequence[str],
        labels: Sequence[str],
        usage: Usage,
        options: ZeroShotOptions = DEFAULTS,
    ) -> list[list[Label]]:
        """A softmax over the labels' log-likelihoods, each the sum over its tokens behind the prompt; a lone label's
        likelihood.

        Not their mean: that is how likely the model is to say this label rather than another. A long label is less
        likely than a short one only where the model finds it so.
        """
        if options.multi_label:
            raise InvalidRequest(
                f"{self.model.name!r} weighs labels against one another: none stands alone", "multi_label"
            )
        if options.template is not None:
            raise InvalidRequest(
                f"{self.model.name!r} is asked by the prompt in models.toml, not by a hypothesis",
                "hypothesis_template",
            )
        check_number_of_pairs(len(texts), len(labels))
        behind = " " if self._is_plain else ""
        tokenizer = self.model.tokenizer
        encoded = tokenizer.encode_batch([behind + label for label in labels], add_special_tokens=False)
        targets = [encoding.ids for encoding in encoded]
        if not all(0 < len(ids) < self.model.room - 1 for ids in targets):
            raise InvalidRequest("has a label without tokens, or with too many", "labels")
        asked = [{"text": text, "labels": ", ".join(labels)} for text in texts]
        if options.truncate:
            room = self._room(max(map(len, targets)))
            asked = [await self._prompter.shorten(places, room) for places in asked]
        requests = []
        for places in asked:
            requests += await self._requests(places, labels, targets)
            await asyncio.sleep(0)  # each is short, all of them may not be
        sums = np.array(await self._likelihoods(requests, usage), dtype=np.float32)
        sums = sums.reshape(len(texts), len(labels))
        scores = softmax(sums) if len(labels) > 1 else np.exp(sums)
        return [rank(labels, row.tolist(), options.top_k) for row in scores]

    async def _requests(
        self, places: Mapping[str, str], labels: Sequence[str], targets: Sequence[list[int]]
    ) -> list[GenerateRequest]:
        """One for each label."""
        prompt_ids = await self._prompter.ids(places)
        self.check_room(len(prompt_ids), max(map(len, targets)))
        pairs = [(prompt_ids, ids) for ids in targets]
        if self._is_plain:  # where a prompt's last token ends is only seen with what follows
            prompt = self._prompter.text(places)
            rows = [one.ids for one in await self.tokenize([f"{prompt} {label}" for label in labels])]
            shared = sum(1 for _ in takewhile(_are_alike, zip(prompt_ids, *rows, strict=False)))
            shared = min(shared, min(map(len, rows)) - 1)
            pairs = [(row[:shared], row[shared:]) for row in rows]
            self.check_room(0, max(map(len, rows)))
        name = self.model.address
        return [
            GenerateRequest(model=name, prompt_ids=given, target_ids=ids, params=_SCORED)
            for given, ids in pairs
        ]

    def check_room(self, num_prompt: int, num_targets: int) -> None:
        """Raises InvalidRequest for a text that leaves none for the labels."""
        room = self._room(num_targets)
        if num_prompt > room:
            raise InvalidRequest(
                f"the text makes a prompt of {num_prompt} tokens, {self.model.name!r} takes {room} beside these labels",
                "text",
                "too_long",
            )

    def _room(self, num_targets: int) -> int:
        """Tokens that a prompt may have beside a label and the token behind it; a source has all of them."""
        if self.model.config.kind == "encoder-decoder":
            return self.model.max_length
        return self.model.room - num_targets - 1

    async def _likelihoods(self, requests: Sequence[GenerateRequest], usage: Usage) -> list[float]:
        """The log-likelihood of each request's targets."""
        answers = await self.engine.generate_many(requests)
        for request, answer in zip(requests, answers, strict=True):
            usage.add_wait(answer)
            usage.prompt_tokens += len(request.prompt_ids) + len(request.target_ids)
            usage.cached_tokens += answer.cached_tokens
        return [sum(entry.logprob for entry in answer.prompt_logprobs or ()) for answer in answers]


def _are_alike(token_ids: tuple[int, ...]) -> bool:
    return len(set(token_ids)) == 1
