"""Pairs of texts as a sequence-class head reads them: what zero-shot by entailment and cross-encoders share."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from app.engine.protocol import EncodeRequest
from app.tasks.base import Task, Usage, to_array
from model.tokenization import Encoding

_SLACK = 64
"""Tokens left beyond the limit when a text is shortened, so that what its end is cut into does not matter."""


async def shorten(task: Task, texts: Sequence[str], param: str, truncate: bool = False) -> list[str]:
    """Texts that will each be read in many pairs, none much longer than the model can hold.

    Raises InvalidRequest for one too long, unless `truncate`.
    """
    shortened = []
    for text, encoding in zip(texts, await task.tokenize(texts), strict=True):
        if not truncate:
            task.check_length(len(encoding.ids), param)
        ends = [
            end
            for (_, end), number in zip(encoding.offsets, encoding.sequence_ids, strict=True)
            if number == 0
        ]
        most = task.model.max_length + _SLACK
        shortened.append(text[: ends[most]] if len(ends) > most else text)
    return shortened


async def class_logits(
    task: Task,
    pairs: Sequence[tuple[str, str]],
    usage: Usage,
    param: str,
    cut: Literal[0, 1] | None,
) -> npt.NDArray[np.float32]:
    """[num_pairs, num_labels]. `cut` says which text of a pair gives way where both are too long together.

    Raises InvalidRequest that names `param` for a pair that is too long all the same.
    """
    requests = []
    for pair in await task.tokenize(pairs):
        encoding = pair if cut is None else cut_text(pair, cut, task.model.max_length)
        task.check_length(len(encoding.ids), param)
        requests.append(
            EncodeRequest(
                model=task.model.address, ids=encoding.ids, type_ids=encoding.type_ids, output="class"
            )
        )
    return np.stack([to_array(answer).reshape(-1) for answer in await task.encode(requests, usage)])


def cut_text(pair: Encoding, number: Literal[0, 1], limit: int) -> Encoding:
    """The pair without the last tokens of its first (0) or second text, all of them at most, to be `limit` long."""
    excess = len(pair.ids) - limit
    if excess <= 0:
        return pair
    places = [i for i, sequence in enumerate(pair.sequence_ids) if sequence == number]
    dropped = set(places[-excess:])
    kept = [i for i in range(len(pair.ids)) if i not in dropped]
    return Encoding(
        [pair.ids[i] for i in kept],
        [pair.type_ids[i] for i in kept],
        [pair.offsets[i] for i in kept],
        [pair.sequence_ids[i] for i in kept],
        [pair.special_mask[i] for i in kept],
        [pair.word_ids[i] for i in kept],
    )
