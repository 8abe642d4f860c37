"""Chats: messages in, by the checkpoint's own template, the next message out."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, ClassVar

from app.errors import InvalidRequest
from app.tasks.base import LONG_TEXT
from app.tasks.generate import Generate
from app.tasks.sampling import GenerateOptions
from model.tokenization.chat_template import ChatTemplateError

Message = Mapping[str, str]
"""`role` (system, developer, user, assistant) and `content`; what else a template may read, such as a `name`."""

_MESSAGE_SIZE = 64
"""A message costs its template about what so many characters do."""
_MAX_REASON = 500


class Chat(Generate):
    """One prompt per chat; texts are generated as for any other prompt, with the rest of the context to fill.

    For checkpoints with a chat template, which `fits` does not see: `app.tasks.served` asks for both.
    """

    name: ClassVar[str] = "chat"
    param: ClassVar[str] = "messages"

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self._spelling: list[bytes] | None = None

    def options(self, values: Mapping[str, Any], temperature: float) -> GenerateOptions:
        """As for any text, but one that begins with the answer: `replace` it where a final message is continued."""
        return replace(super().options(values, temperature), continues_prompt=False)

    async def chat_ids(
        self,
        messages: Sequence[Message],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """The token ids of a chat, a long one made in the pool; what the template writes is all, no token is added.

        Special tokens are read as such wherever they stand, in a message too, as `transformers` does. `variables` are
        the template's own. Raises InvalidRequest for a chat that the template refuses.
        """
        size = sum(_MESSAGE_SIZE + sum(map(len, message.values())) for message in messages)
        if variables:
            size += LONG_TEXT  # of any shape and size
        work = partial(
            self._chat_ids,
            messages,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=continue_final_message,
            variables=variables,
        )
        return await self.offload(size, work)

    def _chat_ids(self, messages: Sequence[Message], **options: Any) -> list[int]:
        template = self.model.chat_template
        assert template is not None, "a chat is of a model with a template"
        if not template.mentions("developer"):
            messages = [_without_developer(message) for message in messages]
        try:
            text = template.render(messages, **options)
        except (ChatTemplateError, RecursionError) as error:
            reason = str(error)[:_MAX_REASON]
            raise InvalidRequest(
                f"{self.model.name!r} does not take this chat: {reason}", self.param
            ) from None
        return self.model.tokenizer.encode(text, add_special_tokens=False).ids

    async def read_spelling(self) -> None:
        """Makes `spelled` know every token's bytes; the first call takes a while, in the pool."""
        if self._spelling is None:
            self._spelling = await self.offload(self.model.vocab_size, self._read_spelling)

    def _read_spelling(self) -> list[bytes]:
        try:
            return self.model.tokenizer.spelling().tokens
        except ValueError:  # a tokenizer that does not tell: `spelled` decodes
            return []

    def spelled(self, token_id: int) -> bytes:
        """The bytes that a token adds to a text, also those of a part of a character; a special token's name."""
        known = self._spelling or ()
        if token_id < len(known) and known[token_id]:
            return known[token_id]
        return self.model.tokenizer.decode([token_id], skip_special_tokens=False).encode()

    def max_tokens(self, prompt_tokens: int, wanted: int | None, is_forced: bool) -> int:
        """Left out, a decoder's limit is the room that is left: in its context, and in a cache that holds less."""
        if wanted is None and self.model.config.kind == "decoder":
            wanted = max(1, self.model.room - prompt_tokens)
        return super().max_tokens(prompt_tokens, wanted, is_forced)


def _without_developer(message: Message) -> Message:
    """Most templates know the role by its older name."""
    return {**message, "role": "system"} if message["role"] == "developer" else message
