"""A generative checkpoint's prompts for a task: by its chat template where it has one, else as plain text."""

from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from typing import Any

from app.errors import InvalidRequest
from app.tasks.base import Engine, TaskModel
from app.tasks.chat import Chat
from model.config import TransformerConfig

_WITHOUT_THOUGHTS = {"enable_thinking": False}
"""What templates of models that can think at length before they answer look for."""


def generates(config: TransformerConfig) -> bool:
    """Whether a checkpoint of this shape can be told in words what to do."""
    return config.kind in ("decoder", "encoder-decoder") and config.head == "lm"


def without_draws(model: TaskModel) -> TaskModel:
    """The same, but what its makers publish about sampling, which is about chats, is no default for a task."""
    return replace(model, generation=replace(model.generation, do_sample=False))


class Prompter:
    """Fills one template. `cut` is the place that a text may be shortened in, and `param` its request field."""

    def __init__(
        self, model: TaskModel, engine: Engine, pool: Executor, name: str, *, cut: str, param: str
    ) -> None:
        self.model = model
        self._chat = Chat(model, engine, pool)
        self._name, self._cut, self._param = name, cut, param

    async def rows(self, asked: Sequence[Mapping[str, str]], room: int | None = None) -> list[list[int]]:
        """The prompts' token ids. With `room` each is brought under so many tokens by cutting its text at the end."""
        return [await self._row(dict(places), room) for places in asked]

    def text(self, places: Mapping[str, str]) -> str:
        """The filled template, before any chat template."""
        return self.model.prompts.fill(self._name, **places)

    async def _row(self, places: dict[str, str], room: int | None) -> list[int]:
        row = await self._ids(self.text(places))
        while room is not None and len(row) > room:
            # what is cut may change how its last word is cut into tokens, so that it may take another turn
            [encoding] = await self._chat.tokenize([places[self._cut]])
            starts = [start for start, end in encoding.offsets if end > start]
            kept = len(starts) - (len(row) - room)
            if kept < 1:
                raise InvalidRequest(
                    f"{room} tokens are too few for what goes around the text", self._param, "too_long"
                )
            places[self._cut] = places[self._cut][: starts[kept]]
            row = await self._ids(self.text(places))
        return row

    async def _ids(self, text: str) -> list[int]:
        if self.model.chat_template is None:
            [encoding] = await self._chat.tokenize([text])
            return encoding.ids
        message: dict[str, Any] = {"role": "user", "content": text}
        try:
            return await self._chat.chat_ids([message], variables=_WITHOUT_THOUGHTS)
        except InvalidRequest as error:
            raise InvalidRequest(error.message, self._param, error.code) from None
