"""Which tokens a sequence has, and how often it has said each: what penalties look at. Knows no tensors."""

from array import array
from collections.abc import Sequence
from copy import copy

from app.engine.sampling_params import SamplingParams


class TokenCounts:
    """The distinct tokens of one growing list, in the order of their first appearance, counted from `first_counted` on.

    A step reads the tokens that are new (one, after the prompt). What it keeps follows from the tokens alone, so
    preemption changes nothing; some 150 bytes for each distinct token, whatever the vocabulary.
    """

    def __init__(self, first_read: int, first_counted: int) -> None:
        self.ids, self.counts = array("q"), array("q")
        """Side by side; 0 is of a token that came before `first_counted` only."""
        self._num_read, self._first_counted = first_read, first_counted
        self._places: dict[int, int] = {}

    def fork(self) -> "TokenCounts":
        """The same for a sequence that begins with the same tokens and goes its own way."""
        twin = copy(self)
        twin.ids, twin.counts, twin._places = self.ids[:], self.counts[:], dict(self._places)
        return twin

    def read(self, token_ids: Sequence[int]) -> None:
        """Takes in what is new. The same list each time, only longer."""
        for place in range(self._num_read, len(token_ids)):
            token_id = token_ids[place]
            known = self._places.setdefault(token_id, len(self.ids))
            if known == len(self.ids):
                self.ids.append(token_id)
                self.counts.append(0)
            if place >= self._first_counted:
                self.counts[known] += 1
        self._num_read = len(token_ids)

    def behind(self, draft: Sequence[int]) -> tuple["array[int]", "array[int]"]:
        """`ids` and `counts` as if the draft had been said."""
        if not draft:
            return self.ids, self.counts
        twin = self.fork()
        for token_id in draft:
            known = twin._places.setdefault(token_id, len(twin.ids))
            if known == len(twin.ids):
                twin.ids.append(token_id)
                twin.counts.append(0)
            twin.counts[known] += 1
        return twin.ids, twin.counts


def make_counts(params: SamplingParams, num_prompt_tokens: int) -> TokenCounts | None:
    """None for a sequence without penalties. Only the repetition penalty looks at the prompt."""
    if not params.has_penalties:
        return None
    first_read = 0 if params.repetition_penalty != 1.0 else num_prompt_tokens
    return TokenCounts(first_read, num_prompt_tokens)
