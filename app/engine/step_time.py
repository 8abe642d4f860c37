"""How long a model's step takes by what it holds, learned from the steps so far. Knows no clock."""

HALF_LIFE = 64
"""Steps after which what was learned before them counts half."""
SWEEPS = 4
"""Over the three terms, at each step: what one step cannot tell apart is parted by later ones."""
SHARED = 0.1
"""The part of each surprise, as a power, that all terms share at once."""
MOST_SHARED = 2.0
"""Of a surprise: a step that something else held up says little of the model."""
LEAST_SECONDS = 1e-6
"""A step takes at least so long."""

_KEEP = 0.5 ** (1 / HALF_LIFE)
_TERMS = range(3)


class StepTime:
    """Seconds = `prompt` x tokens of prompts and sources + `row` x rows that decode + `fixed`; all 0 at first.

    Least squares of relative errors, none below 0, older steps counting less. A step that took longer than expected
    weighs as one of its own length, so that the slow ones among equal ones do not rule.

    Where a machine becomes slower while no prompts come, old steps with prompts and new ones without
    contradict each other, and prompts would seem to be free. So a part of what surprises goes to all three, and to what
    is remembered.
    """

    def __init__(self) -> None:
        self._squares = [[0.0] * 3 for _ in _TERMS]
        self._sums = [0.0] * 3
        self._terms = [0.0] * 3

    @property
    def prompt(self) -> float:
        """Seconds that one more token of a prompt or a source takes."""
        return self._terms[0]

    def without_prompts(self, num_rows: int) -> float:
        """Seconds that a step takes in which so many rows decode."""
        return self._terms[1] * num_rows + self._terms[2]

    def note(self, num_prompt: int, num_rows: int, seconds: float) -> None:
        """A step took so long."""
        held, seconds = (num_prompt, num_rows, 1), max(seconds, LEAST_SECONDS)
        expected = sum(term * count for term, count in zip(self._terms, held, strict=True))
        size = max(expected, seconds)
        shared = 1.0
        if expected:
            shared = min(max(seconds / expected, 1 / MOST_SHARED), MOST_SHARED) ** SHARED
        for i in _TERMS:
            self._terms[i] *= shared
            self._sums[i] = _KEEP * shared * self._sums[i] + held[i] / size * seconds / size
            for j in _TERMS:
                self._squares[i][j] = _KEEP * self._squares[i][j] + held[i] / size * held[j] / size
        for _ in range(SWEEPS):
            for i in _TERMS:
                self._improve(i)

    def _improve(self, i: int) -> None:
        """Gives one term the value that is best beside the others."""
        squares = self._squares[i]
        if squares[i] > 1e-9:  # what has not been seen for long stays as it is
            error = self._sums[i] - sum(a * b for a, b in zip(squares, self._terms, strict=True))
            self._terms[i] = max(0.0, self._terms[i] + error / squares[i])
