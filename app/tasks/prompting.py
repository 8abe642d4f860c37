"""A generative checkpoint's prompts for a task: by its chat template where it has one, else as plain text."""

import asyncio
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

from app.errors import InvalidRequest
from app.tasks.base import Engine, TaskModel
from app.tasks.chat import Chat
from app.tasks.sampling import GenerateOptions
from model.config import TransformerConfig

_WITHOUT_THOUGHTS = {"enable_thinking": False}
"""What templates of models that can think at length before they answer look for."""


def generates(config: TransformerConfig) -> bool:
    """Whether a checkpoint of this shape can be told in words what to do."""
    return config.kind in ("decoder", "encoder-decoder") and config.head == "lm"


def without_draws(model: TaskModel) -> TaskModel:
    """The same, but what its makers publish about sampling, which is about chats, is no default for a task."""
    return replace(model, generation=replace(model.generation, do_sample=False))


def of_its_own(options: GenerateOptions) -> GenerateOptions:
    """An answer is a text of its own, not the rest of its prompt."""
    return replace(options, continues_prompt=False)


class Prompter:
    """Fills one template. `cut` is the place that a text may be shortened in, and `param` its request field."""

    def __init__(
        self, model: TaskModel, engine: Engine, pool: Executor, name: str, *, cut: str, param: str
    ) -> None:
        self.model = model
        self._chat = Chat(model, engine, pool)
        self._name, self._cut, self._param = name, cut, param

    async def rows(self, asked: Sequence[Mapping[str, str]]) -> list[list[int]]:
        """The prompts' token ids."""
        rows = []
        for places in asked:
            rows.append(await self.ids(places))
            await asyncio.sleep(0)  # each is short, all of them may not be
        return rows

    def text(self, places: Mapping[str, str]) -> str:
        """The filled template, before any chat template."""
        return self.model.task_prompts.fill(self._name, **places)

    async def ids(self, places: Mapping[str, str]) -> list[int]:
        """One prompt's token ids."""
        text = self.text(places)
        if self.model.chat_template is None:
            [encoding] = await self._chat.tokenize([text])
            return encoding.ids
        message: dict[str, Any] = {"role": "user", "content": text}
        try:
            return await self._chat.chat_ids([message], variables=_WITHOUT_THOUGHTS)
        except InvalidRequest as error:
            raise InvalidRequest(error.message, self._param, error.code) from None

    async def shorten(self, places: Mapping[str, str], room: int) -> dict[str, str]:
        """The same with the end of the text left out, as far as the prompt has more than `room` tokens."""
        cut = dict(places)
        while (excess := len(await self.ids(cut)) - room) > 0:
            # a word that is cut may become more tokens than it was, so that it can take another turn
            [encoding] = await self._chat.tokenize([cut[self._cut]])
            starts = [start for start, end in encoding.offsets if end > start]
            if excess >= len(starts):
                raise InvalidRequest(
                    "what goes around the text leaves no room for it", self._param, "too_long"
                )
            cut[self._cut] = cut[self._cut][: starts[len(starts) - excess]]
        return cut
