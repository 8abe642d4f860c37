"""What one sequence may not say next, and what it must end with: rules over its own tokens. Knows no tensors.

They mean what `transformers` means by the same settings: `no_repeat_ngram_size`, `bad_words_ids` and
`forced_eos_token_id`, over all tokens of the decoder: a decoder's prompt, an encoder-decoder's start token.
"""

from collections.abc import Sequence
from copy import copy

from app.engine.sampling_params import SamplingParams


class Rules:
    """One sequence's rules. What it keeps follows from the tokens alone, so preemption changes nothing."""

    def __init__(self, params: SamplingParams, max_tokens: int) -> None:
        self._ngrams = SeenNgrams(params.no_repeat_ngram_size) if params.no_repeat_ngram_size else None
        # By the token before the forbidden one, so that a step compares those few words that it could complete.
        self._words: dict[int, list[tuple[int, ...]]] = {}
        for word in params.bad_words:
            self._words.setdefault(word[-2], []).append(word)
        # Who ignores end tokens wants as many others as fit.
        self._forced_eos = () if params.ignore_eos else params.forced_eos_tokens
        self._last_position = max_tokens - 1

    def fork(self) -> "Rules":
        """The same for a sequence that begins with the same tokens and goes its own way."""
        twin = copy(self)
        twin._ngrams = None if self._ngrams is None else self._ngrams.fork()
        return twin

    def banned(self, token_ids: Sequence[int]) -> Sequence[int]:
        """Tokens that must not follow `token_ids`, some maybe twice. The same list each time, only longer."""
        repeats = () if self._ngrams is None else self._ngrams.followers(token_ids)
        words = self._words.get(token_ids[-1], ()) if self._words else ()
        if not words:
            return repeats
        return [*repeats, *(word[-1] for word in words if _ends_with(token_ids, word[:-1]))]

    def forced(self, position: int) -> tuple[int, ...]:
        """The tokens of which one must come at this place of the output (from 0); () where any may."""
        return self._forced_eos if position == self._last_position else ()


def make_rules(params: SamplingParams, max_tokens: int) -> Rules | None:
    """None for a sequence without any; `max_tokens` is the limit that really holds for it."""
    has_rules = params.no_repeat_ngram_size or params.bad_words or params.forced_eos_tokens
    return Rules(params, max_tokens) if has_rules else None


class SeenNgrams:
    """What followed each run of `size` - 1 tokens, in one growing list of tokens.

    A step reads the tokens that are new (one, after the prompt) and looks one run up, however long the list is:
    about a microsecond. Memory is at most 250 + 8 × `size` bytes a token.
    """

    def __init__(self, size: int) -> None:
        self._length = size - 1
        self._num_read = 0
        self._followers: dict[tuple[int, ...], list[int]] = {}

    def fork(self) -> "SeenNgrams":
        """The same, to go on by itself."""
        twin = copy(self)
        twin._followers = {run: list(tokens) for run, tokens in self._followers.items()}
        return twin

    def followers(self, token_ids: Sequence[int]) -> Sequence[int]:
        """What came after earlier runs that equal the last tokens; the next of them would repeat an n-gram."""
        length, count = self._length, len(token_ids)
        for place in range(max(self._num_read, length), count):
            run = tuple(token_ids[place - length : place])
            self._followers.setdefault(run, []).append(token_ids[place])
        self._num_read = count
        # Fewer tokens than a run has are no key.
        return self._followers.get(tuple(token_ids[max(0, count - length) :]), ())


def _ends_with(token_ids: Sequence[int], end: Sequence[int]) -> bool:
    return len(end) <= len(token_ids) and tuple(token_ids[len(token_ids) - len(end) :]) == end
