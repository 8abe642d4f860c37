"""What is told of probabilities: of the tokens that were chosen, and of the likeliest. Functions of their inputs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from app.engine.protocol import TokenLogprobs


def logprobs_of(logits: Tensor, token_ids: Sequence[int], counts: Sequence[int]) -> list[TokenLogprobs]:
    """Of one token for each row of `logits` [N, V], and of as many of the likeliest in its place as `counts` says."""
    logprobs = logits.log_softmax(dim=-1)
    chosen = torch.tensor(token_ids, device=logits.device)
    of_chosen: list[float] = logprobs.gather(1, chosen[:, None]).squeeze(1).tolist()
    return [
        TokenLogprobs(logprob, top) for logprob, top in zip(of_chosen, largest(logprobs, counts), strict=True)
    ]


_BUCKET = 64
_MANY_BUCKETS = 4  # for each that is looked into


def _top(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of each row of `values` [N, V] and their places, [N, count] both, the largest first.

    On a CPU torch sorts all of a row for them. So wide rows are cut into buckets, whose largest numbers say which
    buckets can have any of the first `count`.
    """
    n, size = values.shape
    num_buckets = size // _BUCKET
    if not values.is_cpu or num_buckets < _MANY_BUCKETS * count:
        best = values.topk(count, dim=-1)
        return best.values, best.indices
    whole = num_buckets * _BUCKET
    buckets = values[:, :whole].reshape(n, num_buckets, _BUCKET).amax(2).topk(count, dim=-1).indices
    places = (buckets[:, :, None] * _BUCKET + torch.arange(_BUCKET)).flatten(1)
    places = torch.cat([places, torch.arange(whole, size).expand(n, -1)], dim=1)
    best = values.gather(1, places).topk(count, dim=-1)
    return best.values, places.gather(1, best.indices)


def largest(values: Tensor, counts: Sequence[int]) -> list[list[tuple[int, float]]]:
    """So many of each row of `values` [N, V], or all of it, with their places: the largest first.

    Which of equal ones are among the first few depends on how many are asked for, so each row's are by its own count.
    """
    found: list[list[tuple[int, float]]] = [[] for _ in counts]
    for count in {*counts} - {0}:
        rows = [i for i, wanted in enumerate(counts) if wanted == count]
        of_rows = values if len(rows) == len(counts) else values[rows]
        best, places = (column.tolist() for column in _top(of_rows, min(count, values.shape[-1])))
        for i, *column in zip(rows, places, best, strict=True):
            found[i] = list(zip(*column, strict=True))
    return found
