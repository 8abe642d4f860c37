"""Interpolated modified Kneser-Ney n-grams (Chen and Goodman 1998, section 3): the best of the counted models.

The n-grams that guess drafts in the engine count what followed in one text and hold no probabilities; this one spreads
the mass of what was never seen over the whole vocabulary.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from model.training.history.words import Ids

Floats = npt.NDArray[np.float64]
UNSEEN = -1
_FALLBACK = (0.5, 1.0, 1.5)


@dataclass(frozen=True)
class _Order:
    """All n-grams of one length. An n-gram's number is its place in `keys`, sorted: the number of its first n-1 words
    times the vocabulary's size plus its last word. What is said of histories is by that number of n-1 words."""

    keys: Ids
    discounted: Floats
    """Of each n-gram, its (adjusted) count less the discount."""
    totals: Floats
    """Of each history, the (adjusted) counts of all that follows it."""
    kept_back: Floats
    """Of each history, the sum of what was discounted there."""


class KneserNey:
    """p(word | the words before it), by runs of up to `order` words. Words are numbers below `vocab_size`."""

    def __init__(self, stream: Ids, vocab_size: int, order: int = 5) -> None:
        """Learns a text, which is one stream: lines end in a word of their own, and histories go over it."""
        self._vocab_size = vocab_size
        numbers = np.zeros(len(stream), dtype=np.int64)  # of the (n-1)-gram that begins at each place
        keys, counts, starts = [], [], []
        for n in range(1, order + 1):
            runs = numbers[: len(stream) - n + 1] * vocab_size + stream[n - 1 :]
            unique, first, numbers, count = np.unique(
                runs, return_index=True, return_inverse=True, return_counts=True
            )
            keys.append(unique)
            counts.append(count)
            starts.append((first, numbers))
        self._orders: list[_Order] = []
        for n in range(1, order + 1):
            if n < order:
                # How many different words an n-gram was seen after, instead of how often: each (n+1)-gram is one.
                first, _ = starts[n]
                suffixes = starts[n - 1][1][first + 1]
                count = np.bincount(suffixes, minlength=len(keys[n - 1]))
            else:
                count = counts[n - 1]
            num_histories = len(keys[n - 2]) if n > 1 else 1
            self._orders.append(_discounted(keys[n - 1], count, vocab_size, num_histories))

    @property
    def num_entries(self) -> int:
        """How many n-grams of all lengths are kept."""
        return sum(len(order.keys) for order in self._orders)

    def probabilities(self, stream: Ids) -> Floats:
        """Of each word of another text, its probability after the words before it there."""
        found = np.full(len(stream), 1.0 / self._vocab_size)
        begins = np.zeros(len(stream), dtype=np.int64)  # the history of n-1 words before each place
        for n, order in enumerate(self._orders, start=1):
            # Places below n-1 have no history of that length, and stay as they are.
            history, words = begins[: len(stream) - n + 1], stream[n - 1 :]
            known = np.flatnonzero(history != UNSEEN)
            known = known[order.totals[history[known]] > 0]
            past = history[known]
            gram = _places(order.keys, past * self._vocab_size + words[known])
            own = np.where(gram == UNSEEN, 0.0, order.discounted[gram])
            places = known + n - 1
            found[places] = (own + order.kept_back[past] * found[places]) / order.totals[past]
            begins = _places(
                order.keys, np.where(history == UNSEEN, UNSEEN, history * self._vocab_size + words)
            )
        return found


def _discounted(keys: Ids, counts: Ids, vocab_size: int, num_histories: int) -> _Order:
    discounts = np.array([0.0, *_discounts(counts)])[np.minimum(counts, 3)]
    histories = keys // vocab_size
    return _Order(
        keys,
        counts - discounts,
        np.bincount(histories, weights=counts, minlength=num_histories).astype(np.float64),
        np.bincount(histories, weights=discounts, minlength=num_histories).astype(np.float64),
    )


def _discounts(counts: Ids) -> tuple[float, float, float]:
    """What an n-gram loses that was counted once, twice, or more often (Chen and Goodman's equation 26).

    Fixed numbers where the text is so small that one of the counts up to four has not come up.
    """
    one, two, three, four = (int((counts == k).sum()) for k in (1, 2, 3, 4))
    if not all((one, two, three, four)):
        return _FALLBACK
    y = one / (one + 2 * two)
    return 1 - 2 * y * two / one, 2 - 3 * y * three / two, 3 - 4 * y * four / three


def _places(keys: Ids, wanted: Ids) -> Ids:
    """Where each wanted key stands in the sorted `keys`, `UNSEEN` where it does not."""
    places = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[places] == wanted, places, UNSEEN)
