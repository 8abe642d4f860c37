"""How many threads a step on a CPU is worth: the process that answers clients needs a core too."""

import torch

FEW_OPERATIONS = 5e8
"""Multiplications and additions that one thread does in some milliseconds. Sharing less than that gains little,
and each of a step's hundred shared pieces waits for the thread that another process has just pushed aside."""


class Threads:
    """All of `most` threads for large steps, one for small ones."""

    def __init__(self, num_parameters: int, most: int) -> None:
        self._num_parameters, self._most = num_parameters, most

    def use_for(self, num_tokens: int) -> None:
        """Sets what the products of a step with so many tokens share."""
        wanted = self._most if 2 * self._num_parameters * num_tokens > FEW_OPERATIONS else 1
        if torch.get_num_threads() != wanted:
            torch.set_num_threads(wanted)
