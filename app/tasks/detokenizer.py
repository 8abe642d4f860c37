"""Token ids to text while they come: whole characters only, and never past a possible stop string.

One object per sequence. It knows no engine; who owns the sequence aborts it when `is_stopped` turns true.
"""

from collections.abc import Sequence

from model.tokenization import Tokenizer

_BROKEN = "\ufffd"
_MAX_HELD_TOKENS = 16
"""A character has at most four bytes, so more held tokens than this are not one unfinished character."""
CONTEXT_TOKENS = 4
"""Tokens that a window keeps before the new ones."""
_MAX_DONE_TOKENS = 12


class Detokenizer:
    """Incremental: each call decodes a short window, never the whole sequence.

    The window starts a few tokens before the new ones, since a tokenizer may decode a token differently at the start
    of a text (a leading blank, say). `before` are the tokens that the text goes on from, a prompt's.
    """

    def __init__(
        self, tokenizer: Tokenizer, stop: Sequence[str] = (), min_tokens: int = 0, before: Sequence[int] = ()
    ) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._min_tokens = min_tokens
        self._window = list(before[-CONTEXT_TOKENS:])
        self._num_done = len(self._window)  # tokens at the head of the window whose text is out already
        self._done_text = tokenizer.decode(self._window) if self._window else ""
        self._held = ""  # whole characters that may be the beginning of a stop string
        self.num_tokens = 0
        self.is_stopped = False

    def add(self, ids: Sequence[int]) -> str:
        """The text that these tokens release; nothing after a stop string was met."""
        if not self._stop:
            self.num_tokens += len(ids)
            self._window.extend(ids)
            return self._decode()
        released = ""
        for token_id in ids:
            if self.is_stopped:
                break
            self.num_tokens += 1
            self._window.append(token_id)
            released += self._match(self._decode())
        return released

    def finish(self) -> str:
        """What was held back and now cannot change any more; the end of the sequence."""
        if self.is_stopped:
            return ""
        text = self._tokenizer.decode(self._window)
        new = text[len(self._done_text) :]
        self._forget(len(self._window), text)
        released = self._match(new)
        held, self._held = self._held, ""  # empty after a stop string
        return released + held

    def _decode(self) -> str:
        """The window's new text, or nothing while its last character is unfinished."""
        text = self._tokenizer.decode(self._window)
        end: int | None = len(self._window)
        if text.endswith(_BROKEN):
            end = self._character_boundary(text)
            if end is None:
                return ""
            text = self._tokenizer.decode(self._window[:end])
        new = text[len(self._done_text) :]
        self._forget(end or 0, text)
        return new

    def _character_boundary(self, text: str) -> int | None:
        """Where a run of broken bytes can be cut so that both sides decode as the whole does; None: hold it."""
        if len(self._window) - self._num_done <= _MAX_HELD_TOKENS:
            return None
        for end in range(len(self._window) - 1, self._num_done, -1):
            head, tail = (
                self._tokenizer.decode(self._window[:end]),
                self._tokenizer.decode(self._window[end:]),
            )
            if head + tail == text and len(head) > len(self._done_text):
                return end
        return None

    def _forget(self, end: int, done_text: str) -> None:
        """Everything before `end`, which reads `done_text`, is out; keep the last few tokens as context."""
        if end > _MAX_DONE_TOKENS:
            self._window = self._window[end - CONTEXT_TOKENS :]
            end = CONTEXT_TOKENS
            done_text = self._tokenizer.decode(self._window[:end])
        self._num_done, self._done_text = end, done_text

    def _match(self, new: str) -> str:
        """Adds text to what is held; releases all but a tail that may grow into a stop string."""
        if not self._stop:
            return new
        text = self._held + new
        if self.num_tokens > self._min_tokens:
            found = [at for stop in self._stop if (at := text.find(stop)) >= 0]
            if found:
                self.is_stopped, self._held = True, ""
                return text[: min(found)]
        keep = _longest_prefix_at_end(text, self._stop)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _longest_prefix_at_end(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of `text` with which some stop string begins, and which it does not fill."""
    longest = 0
    for stop in stops:
        for length in range(min(len(stop) - 1, len(text)), longest, -1):
            if text.endswith(stop[:length]):
                longest = length
                break
    return longest
