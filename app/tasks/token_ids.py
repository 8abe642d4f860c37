"""Texts to token ids and back, for clients that count or cut by themselves. No engine has a part in it."""

from collections.abc import Sequence
from concurrent.futures import Executor

from app.errors import InvalidRequest
from app.tasks.base import offload
from app.tasks.served import Served


class TokenIds:
    """The tokenizer of one served model; long input is worked on in the pool."""

    def __init__(self, served: Served, pool: Executor) -> None:
        self.name = served.name
        self._tokenizer = served.tokenizer
        self._vocab_size = served.config.vocab_size
        self._pool = pool

    async def encode(self, texts: Sequence[str], *, add_special_tokens: bool) -> list[list[int]]:
        """The ids of each text, with the checkpoint's template around them or without; nothing is cut."""
        size = sum(map(len, texts))
        encodings = await offload(
            self._pool, size, lambda: self._tokenizer.encode_batch(texts, add_special_tokens)
        )
        return [encoding.ids for encoding in encodings]

    async def decode(self, rows: Sequence[Sequence[int]], *, skip_special_tokens: bool) -> list[str]:
        """The text of each row. Raises InvalidRequest for an id that the model does not have."""
        if any(token_id >= self._vocab_size for row in rows for token_id in row):
            raise InvalidRequest(f"token ids must be below {self._vocab_size}", "tokens")
        size = sum(map(len, rows))
        return await offload(
            self._pool, size, lambda: [self._tokenizer.decode(row, skip_special_tokens) for row in rows]
        )

    def spell(self, ids: Sequence[int]) -> list[str]:
        """Tokens as the vocabulary spells them."""
        return [self._tokenizer.id_to_token(token_id) or "" for token_id in ids]
