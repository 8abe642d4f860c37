"""How many prompt tokens a step may hold, from how long steps take and how long prompts have waited. Knows no clock."""

from app.engine.step_time import StepTime

FIRST_TOKENS = 256
"""Before anything is measured."""
LEAST_TOKENS = 16
"""However slow the model: a prompt goes on in every step."""
MOST_ADDED = 1.5
"""How long prompts may take in a step beside the rest of it, in times of that."""
MOST_ALONE = 5.0
"""How long a step with a decoder's prompts may take while nobody decodes, in times of the target: no stream halts
meanwhile, and each piece of a prompt reads all weights again."""
LEAST_SECONDS = 0.008
"""However fast decoding is: many short prompts that come at once must not trickle in."""
MOST_TARGETS = 3.5
"""How long a step that decodes may take for the sake of prompts that have waited, in times of the target."""


class Pace:
    """Gives each model's next step a budget of prompt and source tokens, for steps of `target` seconds.

    The tokens of those who decode are not limited: they are the ones who wait for the step to end.
    """

    def __init__(self, target: float) -> None:
        self._target = target
        self._times: dict[str, StepTime] = {}

    def budget(
        self,
        model: str,
        num_rows: int,
        is_cut: bool = True,
        is_anyone_decoding: bool = True,
        waited: float = 0.0,
    ) -> int:
        """Tokens that fit into the time that is left of the target, or into half again as much as the rest of the step
        takes: a large model fills the target by reading its weights. Not `is_cut`: they are taken whole.

        Of this model `num_rows` decode; `is_anyone_decoding` tells of all. `waited`: seconds, of the first one that has
        no token yet.
        """
        time = self._times.get(model)
        if time is None or not time.prompt:
            return FIRST_TOKENS
        others = time.without_prompts(num_rows)
        target = self._target * (MOST_ALONE if is_cut and not is_anyone_decoding else 1.0)
        left = max(target - others, MOST_ADDED * others)
        if is_cut and num_rows:
            left = self._beside_streams(left, others, waited)
        return max(LEAST_TOKENS, int(left / time.prompt))

    def forget(self, model: str) -> None:
        """It is gone."""
        self._times.pop(model, None)

    def note(self, model: str, num_rows: int, num_prompt: int, seconds: float) -> None:
        """A step has computed `num_rows` of sequences that decode, and `num_prompt` tokens of prompts and sources."""
        self._times.setdefault(model, StepTime()).note(num_prompt, num_rows, seconds)

    def _beside_streams(self, left: float, decoding: float, waited: float) -> float:
        """Of the seconds that are left, those that streams are made to wait for prompts.

        At first these are the square of what they may take beside a slow model's streams, over `LEAST_SECONDS`: streams
        that come slowly anyway go on a little slower, and a prompt that takes long is not cut into pieces of which
        each makes a step longer. After a second of waiting they grow with its square.
        """
        added = max(LEAST_SECONDS, (MOST_ADDED * decoding) ** 2 / LEAST_SECONDS)
        grown = min(added * max(1.0, waited) ** 2, MOST_TARGETS * self._target - decoding)
        return max(min(left, added), grown)
