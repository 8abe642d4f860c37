"""How much a step may hold so that it takes about as long as wanted, from how long steps have taken. Knows no clock."""

from dataclasses import dataclass

FIRST_TOKENS = 256
"""Before anything is measured."""
LEAST_TOKENS = 16
"""However slow the model: a prompt goes on in every step."""
HALF_LIFE = 1024
"""Tokens after which what was measured before them counts half."""
MOST_ADDED = 1.5
"""How long prompts may take in a step that decodes, in times of what decoding takes: a fast model's streams feel
100 ms as a halt."""
MOST_ALONE = 5.0
"""How long a step of a decoder's prompts may take while nobody decodes, in times of the target: no stream halts
meanwhile, and each piece of a prompt reads all weights again."""
LEAST_SECONDS = 0.01
"""However fast decoding is: many short prompts that come at once must not trickle in."""
PATIENCE = 1.0
"""Who has waited for twice as many seconds for a first token may take four times as much of a step that decodes, after
thrice as many nine times, and so on: the last of many prompts need not wait for ever, and a few are not felt more."""
MOST_TARGETS = 6.0
"""Such steps take so many targets at most."""
SMOOTHING = 0.2


@dataclass
class _Measured:
    """One model's: seconds of prompts and their tokens, older ones counting less; seconds of steps that only decode."""

    seconds: float = 0.0
    tokens: float = 0.0
    decode_seconds: float = 0.0


class Pace:
    """Gives each model's next step a budget of prompt and source tokens, for steps of `target` seconds.

    The tokens of those who decode are not limited: they are the ones who wait for the step to end.
    """

    def __init__(self, target: float) -> None:
        self._target = target
        self._models: dict[str, _Measured] = {}

    def budget(
        self,
        model: str,
        is_decoding: bool,
        is_cut: bool = True,
        is_anyone_decoding: bool = True,
        waited: float = 0.0,
    ) -> int:
        """Tokens that fit into the time that those who decode, if any, leave, or into half again as much as they
        take: a large model's decoding fills the target by itself. Not `is_cut`: they are taken whole.

        `is_decoding` tells of this model, `is_anyone_decoding` of all. `waited`: seconds, of the first one that has no
        token yet.
        """
        measured = self._models.get(model)
        if measured is None or not measured.tokens:
            return FIRST_TOKENS
        left, decoding = self._target, measured.decode_seconds
        if is_cut and not is_anyone_decoding:
            left *= MOST_ALONE
        if is_decoding and decoding:
            left = max(left - decoding, MOST_ADDED * decoding)
            if is_cut:
                left = min(left, max(LEAST_SECONDS, MOST_ADDED * decoding))
                most = MOST_TARGETS * self._target - decoding
                left = max(left, min(left * (waited / PATIENCE) ** 2, most))
        return max(LEAST_TOKENS, int(left * measured.tokens / max(measured.seconds, 1e-9)))

    def forget(self, model: str) -> None:
        """It is gone."""
        self._models.pop(model, None)

    def note(self, model: str, num_decoding: int, num_prompt: int, seconds: float) -> None:
        """A step has computed one token each of `num_decoding` sequences, and `num_prompt` of prompts and sources."""
        measured = self._models.setdefault(model, _Measured())
        if num_prompt == 0:
            weight = SMOOTHING if measured.decode_seconds else 1.0
            measured.decode_seconds += weight * (seconds - measured.decode_seconds)
            return
        keep = 0.5 ** (num_prompt / HALF_LIFE)
        of_prompts = seconds - (measured.decode_seconds if num_decoding else 0.0)
        measured.seconds = keep * measured.seconds + max(of_prompts, 0.0)
        measured.tokens = keep * measured.tokens + num_prompt
