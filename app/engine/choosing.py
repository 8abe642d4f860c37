"""From a step's logits to what its sequences may say next: sampled tokens, or the continuations of beams.

Nothing is said yet: that is the committer's.
"""

import logging
from collections.abc import Iterator
from collections.abc import Sequence as ListLike
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor

from app.engine.batch import LogitRows
from app.engine.beam import Continuations, continuations
from app.engine.logprobs import logprobs_of
from app.engine.masks import Masks
from app.engine.protocol import GenerateRequest, TokenLogprobs
from app.engine.sampler import SampleRow, sample
from app.engine.sequence import Sequence

_log = logging.getLogger(__name__)

Said = tuple[int, TokenLogprobs | None]
"""A token, and what is asked about it."""


@dataclass(frozen=True)
class Choices:
    """Of each beam of the step its continuations, and of each sequence by itself the token that comes next and those
    that come after each token of its draft; `num_sampled` in all. Nothing can be sampled for those that `failed`."""

    beams: list[tuple[Sequence, Continuations]] = field(default_factory=list)
    alone: list[tuple[Sequence, list[Said]]] = field(default_factory=list)
    num_sampled: int = 0
    failed: list[Sequence] = field(default_factory=list)


class Chooser:
    """Knows neither the models nor the cache; of sequences it changes only what is asked about prompts."""

    def __init__(self) -> None:
        self._masks = Masks()

    def choose(self, logit_rows: ListLike[LogitRows], logits: Tensor) -> Choices:
        """`logits` [rows of `logit_rows`, vocab_size] float32, or where `takes_largest` maybe the words with the
        largest, int64 [rows]. What is asked about prompts is noted first."""
        if not logits.is_floating_point():
            return _largest(logit_rows, logits)
        if any(rows.num_told for rows in logit_rows):
            logits = _tell_prompts(logit_rows, logits)
        going_on = [(rows.sequence, rows.num_next) for rows in logit_rows if rows.num_next]
        owners = [sequence for sequence, count in going_on for _ in range(count)]
        places = [i for i, sequence in enumerate(owners) if sequence.group is not None]
        beams: list[tuple[Sequence, Continuations]] = []
        if places:
            members = [owners[i] for i in places]
            rows = [_sample_row(member, 0) for member in members]
            theirs = logits if len(places) == len(owners) else logits[places]
            beams = list(zip(members, continuations(theirs, rows, members), strict=True))
        alone = [(sequence, count) for sequence, count in going_on if sequence.group is None]
        if not alone:
            return Choices(beams)
        if places:
            logits = logits[[i for i, sequence in enumerate(owners) if sequence.group is None]]
        for s, count in alone:
            if s.matcher is not None:
                s.matcher.draft = s.draft.token_ids[: count - 1]
        self._masks.fill([s.matcher for s, _ in alone if s.matcher is not None])
        said, failed = _sample(alone, logits)
        return Choices(beams, said, sum(count for _, count in alone), failed)


def takes_largest(logit_rows: ListLike[LogitRows]) -> bool:
    """Whether of all these rows no more is needed than which word has the largest logit."""
    return all(rows.num_told == 0 and _is_plain(rows.sequence) for rows in logit_rows)


def _is_plain(sequence: Sequence) -> bool:
    own = (sequence.group, sequence.matcher, sequence.rules, sequence.counts)
    params = sequence.params
    return (
        all(one is None for one in own)
        and params.is_greedy
        and params.logprobs is None
        and not params.logit_bias
        and not params.suppress_token_ids
        and len(sequence.token_ids) - sequence.num_prompt_tokens >= params.min_tokens
    )


def _largest(logit_rows: ListLike[LogitRows], words: Tensor) -> Choices:
    said: Iterator[Said] = ((word, None) for word in words.tolist())
    alone = [(rows.sequence, list(islice(said, rows.num_next))) for rows in logit_rows if rows.num_next]
    return Choices(alone=alone, num_sampled=len(words))


def _sample(
    going_on: list[tuple[Sequence, int]], logits: Tensor
) -> tuple[list[tuple[Sequence, list[Said]]], list[Sequence]]:
    """What each may say next, by its rows of `logits`, and who has failed: where all cannot be sampled at once, each
    is by itself."""
    rows = [_sample_row(s, drafted) for s, count in going_on for drafted in range(count)]
    try:
        samples = sample(logits, rows)
    except Exception:
        _log.exception("%d rows could not be sampled", len(rows))
        if len(going_on) == 1:
            return [], [going_on[0][0]]
        parts = torch.split(logits, [count for _, count in going_on])
        alone = [_sample([one], part) for one, part in zip(going_on, parts, strict=True)]
        return [one for said, _ in alone for one in said], [one for _, failed in alone for one in failed]
    said = iter(zip(samples.token_ids, samples.logprobs, strict=True))
    return [(s, list(islice(said, count))) for s, count in going_on], []


def _tell_prompts(logit_rows: ListLike[LogitRows], logits: Tensor) -> Tensor:
    """Notes the log-probabilities of prompts; returns the other rows."""
    left = []
    sizes = [count for rows in logit_rows for count in (rows.num_told, rows.num_next)]
    pieces = torch.split(logits, sizes)
    for rows, told, others in zip(logit_rows, pieces[::2], pieces[1::2], strict=True):
        left.append(others)
        sequence, asked = rows.sequence, rows.sequence.params.prompt_logprobs
        if rows.num_told and asked is not None:
            first = sequence.next_told
            token_ids = sequence.token_ids[first : first + rows.num_told]
            sequence.prompt_logprobs += logprobs_of(told, token_ids, [asked] * len(token_ids))
    return torch.cat(left)


def _sample_row(sequence: Sequence, num_drafted: int) -> SampleRow:
    """Of the token behind so many of its draft. A constrained sequence's mask is filled by now."""
    request, matcher = sequence.request, sequence.matcher
    assert isinstance(request, GenerateRequest)
    eos_token_ids = sequence.eos_token_ids
    ends = request.params.end_token_ids(eos_token_ids)
    return SampleRow(
        params=request.params,
        index=request.index,
        token_ids=sequence.token_ids,
        num_prompt_tokens=sequence.num_prompt_tokens,
        eos_token_ids=eos_token_ids,
        rules=sequence.rules,
        counts=sequence.counts,
        draft=sequence.draft.token_ids[:num_drafted],
        allowed=None if matcher is None else matcher.allowed(ends, eos_token_ids, num_drafted),
    )
