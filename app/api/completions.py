"""Choices in the shape of OpenAI's completion objects, whole and in chunks."""

from collections.abc import Sequence
from typing import Any

from app.tasks.completion import Completion, Piece
from app.tasks.generate import Generate


class Choices:
    """Prompts × n in order; with `is_echo` each text begins with its prompt."""

    def __init__(
        self,
        task: Generate,
        prompts: Sequence[str] | Sequence[list[int]],
        rows: Sequence[list[int]],
        n: int,
        *,
        is_echo: bool,
    ) -> None:
        self._task = task
        self._echoes = [""] * (len(rows) * n)
        if is_echo:
            for i in range(len(self._echoes)):
                prompt = prompts[i // n]
                text = prompt if isinstance(prompt, str) else task.model.tokenizer.decode(prompt)
                self._echoes[i] = text
        self._lengths = [0] * (len(rows) * n)

    def whole(self, done: Sequence[Completion]) -> list[dict[str, Any]]:
        """All choices of a plain answer."""
        pieces = [
            Piece(i, one.text, one.token_ids, one.finish_reason, one.logprobs) for i, one in enumerate(done)
        ]
        return [self.piece(piece) for piece in pieces]

    def piece(self, piece: Piece) -> dict[str, Any]:
        """One choice of an answer or chunk."""
        text = piece.text
        if self._echoes[piece.index]:
            text, self._echoes[piece.index] = self._echoes[piece.index] + text, ""
        choice: dict[str, Any] = {
            "index": piece.index,
            "text": text,
            "logprobs": None,
            "finish_reason": piece.finish_reason,
        }
        if piece.logprobs is not None:
            choice["logprobs"] = self._logprobs(piece)
        self._lengths[piece.index] += len(text)
        return choice

    def _logprobs(self, piece: Piece) -> dict[str, Any]:
        """The legacy form: parallel lists; `text_offset` counts characters from the start of the choice's text."""
        told = self._task.told_logprobs(piece.token_ids, piece.logprobs or ())
        offset, offsets = self._lengths[piece.index], []
        for entry in told:
            offsets.append(offset)
            offset += len(entry["token"])
        return {
            "tokens": [entry["token"] for entry in told],
            "token_logprobs": [entry["logprob"] for entry in told],
            "top_logprobs": [{top["token"]: top["logprob"] for top in entry["top"]} for entry in told],
            "text_offset": offsets,
        }
