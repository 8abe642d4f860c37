"""Choices in the shape of OpenAI's chat objects, whole and in chunks."""

from collections.abc import Iterator, Sequence
from typing import Any

from app.api.openai_answer import told_prompt
from app.tasks.chat import Chat
from app.tasks.completion import Completion, Piece


class ChatChoices:
    """The `n` answers to one chat, whose prompt is `row`."""

    def __init__(self, task: Chat, row: Sequence[int]) -> None:
        self._task, self._row = task, row
        self._begun: set[int] = set()

    def whole(self, done: Sequence[Completion]) -> list[dict[str, Any]]:
        """All choices of a plain answer."""
        return [self._message(index, one) for index, one in enumerate(done)]

    def news(self, piece: Piece) -> Iterator[dict[str, Any]]:
        """The role before an answer's first piece, then its text, and at its end the reason alone."""
        if piece.index not in self._begun:
            self._begun.add(piece.index)
            yield _delta(piece.index, {"role": "assistant", "content": ""})
        if piece.text or piece.logprobs:
            yield _delta(piece.index, {"content": piece.text}) | {"logprobs": self._logprobs(piece)}
        if piece.finish_reason is not None:
            yield _delta(piece.index, {}) | {"finish_reason": piece.finish_reason}

    def _message(self, index: int, one: Completion) -> dict[str, Any]:
        choice: dict[str, Any] = {
            "index": index,
            "message": {"role": "assistant", "content": one.text, "refusal": None},
            "logprobs": self._logprobs(one),
            "finish_reason": one.finish_reason,
        }
        if one.prompt_logprobs is not None:
            choice["prompt_logprobs"] = [None, *told_prompt(self._task, self._row, one)[1:]]
        return choice

    def _logprobs(self, said: Completion | Piece) -> dict[str, Any] | None:
        if said.logprobs is None:
            return None
        content = [
            self._told(token_id, entry.logprob)
            | {"top_logprobs": [self._told(top_id, logprob) for top_id, logprob in entry.top]}
            for token_id, entry in zip(said.token_ids, said.logprobs, strict=True)
        ]
        return {"content": content, "refusal": None}

    def _told(self, token_id: int, logprob: float) -> dict[str, Any]:
        spelled = self._task.spelled(token_id)
        return {"token": spelled.decode(errors="replace"), "logprob": logprob, "bytes": [*spelled]}


def _delta(index: int, delta: dict[str, Any]) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": None}
