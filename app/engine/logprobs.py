"""What is told of probabilities: of the tokens that were chosen, and of the likeliest. Functions of their inputs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from app.engine.protocol import TokenLogprobs
from model.kernels import ranking


def log_softmax_(logits: Tensor) -> Tensor:
    """[N, V] logits, which are given away, to log-probabilities.

    On a CPU in their place, as new memory for so many numbers takes longer than they do to compute.
    """
    if ranking.can_rank(logits):
        ranking.log_softmax_(logits)
        return logits
    return logits.log_softmax(dim=-1)


def logprobs_of(logits: Tensor, token_ids: Sequence[int], counts: Sequence[int]) -> list[TokenLogprobs]:
    """Of one token for each row of `logits` [N, V], and of as many of the likeliest in its place as `counts` says."""
    logprobs = logits.log_softmax(dim=-1)
    chosen = torch.tensor(token_ids, device=logits.device)
    of_chosen: list[float] = logprobs.gather(1, chosen[:, None]).squeeze(1).tolist()
    return [
        TokenLogprobs(logprob, top) for logprob, top in zip(of_chosen, largest(logprobs, counts), strict=True)
    ]


def largest(values: Tensor, counts: Sequence[int]) -> list[list[tuple[int, float]]]:
    """So many of each row of `values` [N, V], or all of it, with their places: the largest first.

    Which of equal ones are among the first few depends on how many are asked for, so each row's are by its own count.
    """
    found: list[list[tuple[int, float]]] = [[] for _ in counts]
    for count in {*counts} - {0}:
        rows = [i for i, wanted in enumerate(counts) if wanted == count]
        of_rows = values if len(rows) == len(counts) else values[rows]
        count = min(count, values.shape[-1])
        top = ranking.largest(of_rows, count) if ranking.can_rank(of_rows) else of_rows.topk(count, dim=-1)
        best, places = (column.tolist() for column in top)
        for i, *column in zip(rows, places, best, strict=True):
            found[i] = list(zip(*column, strict=True))
    return found
