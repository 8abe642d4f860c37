"""Choices in the shape of OpenAI's completion objects, whole and in chunks."""

from collections.abc import Sequence
from typing import Any

from app.api.openai_answer import told_prompt
from app.tasks.completion import Completion, Piece
from app.tasks.generate import Generate


class CompletionChoices:
    """Prompts × n in order; with `is_echo` each text begins with its prompt, and so do its log-probabilities."""

    def __init__(
        self,
        task: Generate,
        prompts: Sequence[str] | Sequence[list[int]],
        rows: Sequence[list[int]],
        n: int,
        *,
        is_echo: bool,
    ) -> None:
        self._task, self._rows, self._n, self._is_echo = task, rows, n, is_echo
        self._echoes = [""] * (len(rows) * n)
        if is_echo:
            for i in range(len(self._echoes)):
                prompt = prompts[i // n]
                text = prompt if isinstance(prompt, str) else task.model.tokenizer.decode(prompt)
                self._echoes[i] = text
        self._lengths = [0] * (len(rows) * n)

    def whole(self, done: Sequence[Completion]) -> list[dict[str, Any]]:
        """All choices of a plain answer."""
        return [
            self._choice(
                Piece(i, one.text, one.token_ids, one.finish_reason, one.logprobs, one.prompt_logprobs)
            )
            for i, one in enumerate(done)
        ]

    def news(self, piece: Piece) -> list[dict[str, Any]]:
        """The choice of one chunk."""
        return [self._choice(piece)]

    def _choice(self, piece: Piece) -> dict[str, Any]:
        text = piece.text
        if self._echoes[piece.index]:
            text, self._echoes[piece.index] = self._echoes[piece.index] + text, ""
        choice: dict[str, Any] = {
            "index": piece.index,
            "text": text,
            "logprobs": None,
            "finish_reason": piece.finish_reason,
        }
        of_prompt = told_prompt(self._task, self._rows[piece.index // self._n], piece)
        if piece.logprobs is not None:
            told = self._task.told_logprobs(piece.token_ids, piece.logprobs)
            choice["logprobs"] = self._legacy(piece.index, [*of_prompt, *told] if self._is_echo else told)
        if piece.prompt_logprobs is not None and not self._is_echo:
            choice["prompt_logprobs"] = [None, *of_prompt[1:]]
        self._lengths[piece.index] += len(text)
        return choice

    def _legacy(self, index: int, told: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """Parallel lists; `text_offset` counts characters from the start of the choice's text, which has no special
        tokens."""
        offset, offsets = self._lengths[index], []
        for entry in told:
            offsets.append(offset)
            offset += 0 if entry["id"] in self._task.model.special_ids else len(entry["token"])
        return {
            "tokens": [entry["token"] for entry in told],
            "token_logprobs": [entry["logprob"] for entry in told],
            "top_logprobs": [
                None if entry["top"] is None else {top["token"]: top["logprob"] for top in entry["top"]}
                for entry in told
            ],
            "text_offset": offsets,
        }
