"""From logits to token ids: penalties, bias, temperature, truncation and the draw, for a whole step.

A function of its inputs, of which only rules and counts remember anything: how far they have read. The noise of a
token depends on (seed, sequence index, position, token id) alone, so equal logits give equal tokens in any
batch, and again when the sequence is computed anew. A greedy step without penalties and rules pays for one
argmax and nothing else.
"""

from array import array
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from operator import or_

import torch
import torch.nn.functional as F
from torch import Tensor

from app.engine.allowed import Allowed, forbid_others, take_stuck
from app.engine.constraint import Bits
from app.engine.logprobs import logprobs_of
from app.engine.protocol import TokenLogprobs
from app.engine.rules import Rules
from app.engine.sampling_params import SamplingParams
from app.engine.token_counts import TokenCounts
from model import kernels

NO_TOKEN = -1
"""In the place of a constrained row's next token: none may follow."""

_BITS = 2**64
_GOLDEN = 0x9E3779B97F4A7C15  # increment and multipliers of SplitMix64
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_FIRST_CANDIDATES = 128  # what top-p looks at first; nearly always enough
_GROUP = 64  # tokens


@dataclass(frozen=True, slots=True)
class SampleRow:
    """One row of the logits: whose next token it gives.

    `token_ids` are prompt and output so far, by reference, and `draft` the tokens that are taken to come first: the
    next token is sampled as if they had been said. Its position is counted from `num_prompt_tokens`. `index` is the
    sequence's within its request; `eos_token_ids` end a sequence; `rules`, and `counts` for its penalties, are the
    sequence's own, None where it has none; `allowed` has a bit for each token id, the lowest of the first word first,
    None where the sequence is not constrained.
    """

    params: SamplingParams
    index: int
    token_ids: Sequence[int]
    num_prompt_tokens: int
    eos_token_ids: tuple[int, ...]
    rules: Rules | None = None
    counts: TokenCounts | None = None
    draft: Sequence[int] = ()
    allowed: Bits | None = None

    @property
    def position(self) -> int:
        """The next token's place in the output, from 0."""
        return len(self.token_ids) - self.num_prompt_tokens + len(self.draft)


@dataclass(frozen=True, slots=True)
class Samples:
    """One token for each row, or NO_TOKEN; `logprobs[i]` is None where row i did not ask."""

    token_ids: list[int]
    logprobs: list[TokenLogprobs | None]


@torch.inference_mode()
def sample(logits: Tensor, rows: Sequence[SampleRow]) -> Samples:
    """The next token of each row of `logits` [B, V] float32, which stay as they are.

    Token ids in the parameters must be below V (`SamplingParams.check_vocabulary`). A row to which every token
    is forbidden gets token 0, a constrained one NO_TOKEN.
    """
    allowed = [(i, row.allowed) for i, row in enumerate(rows) if row.allowed is not None]
    adjusted = adjust(logits, rows, allowed)
    stuck = take_stuck(adjusted, allowed)
    drawn = [i for i, row in enumerate(rows) if not row.params.is_greedy]
    if len(drawn) == len(rows) > 0:
        chosen = _draw(adjusted, rows)  # [B]
    else:
        chosen = kernels.argmax(adjusted) if kernels.can_run(adjusted) else adjusted.argmax(dim=-1)
    if 0 < len(drawn) < len(rows):
        where = torch.tensor(drawn, device=logits.device)
        chosen[where] = _draw(adjusted.index_select(0, where), [rows[i] for i in drawn])
    token_ids: list[int] = chosen.tolist()
    logprobs = _logprobs(logits, rows, token_ids)
    for i in stuck:
        token_ids[i], logprobs[i] = NO_TOKEN, None
    return Samples(token_ids, logprobs)


def adjust(logits: Tensor, rows: Sequence[SampleRow], allowed: Allowed = ()) -> Tensor:
    """`logits` [B, V] with penalties, bias, tokens held back or not `allowed`, then forced ones; a copy only where a
    row needs one."""
    penalised = [(i, row.counts) for i, row in enumerate(rows) if row.counts is not None]
    biased = [i for i, row in enumerate(rows) if row.params.logit_bias]
    ruled = [(i, row.rules) for i, row in enumerate(rows) if row.rules is not None]
    never = _held_back(rows, ruled)
    forced = [(i, ends) for i, rules in ruled if (ends := rules.forced(rows[i].position))]
    if not (penalised or biased or never.ids or allowed or forced):
        return logits
    logits = logits.clone()
    if penalised:
        _penalise(logits, rows, penalised)
    for i in biased:
        bias = rows[i].params.logit_bias
        ids = torch.tensor(list(bias), device=logits.device)
        logits[i, ids] += torch.tensor(list(bias.values()), dtype=logits.dtype, device=logits.device)
    if never.ids:
        logits[never.places(logits.device)] = -torch.inf
    forbid_others(logits, allowed)
    for i, ends in forced:
        logits[i] = -torch.inf
        logits[i, torch.tensor(ends, device=logits.device)] = 0.0
    return logits


def _held_back(rows: Sequence[SampleRow], ruled: Iterable[tuple[int, Rules]]) -> "_Entries":
    """End tokens before the minimum, tokens that are never wanted, and what the rules forbid; maybe twice."""
    never = _Entries()
    for i, row in enumerate(rows):
        if row.position < row.params.min_tokens:
            never.add(i, row.params.end_token_ids(row.eos_token_ids))
        if row.params.suppress_token_ids:
            never.add(i, row.params.suppress_token_ids)
    for i, rules in ruled:
        never.add(i, rules.banned(rows[i].token_ids))
    return never


class _Entries:
    """Single entries of the logits."""

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.ids: list[int] = []

    def add(self, row: int, ids: Collection[int]) -> None:
        self.rows += [row] * len(ids)
        self.ids += ids

    def places(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """What indexes the logits."""
        return torch.tensor(self.rows, device=device), torch.tensor(self.ids, device=device)


def _penalise(
    logits: Tensor, rows: Sequence[SampleRow], penalised: Sequence[tuple[int, TokenCounts]]
) -> None:
    """Changes `logits` [B, V], in N entries: the distinct tokens of each of the `penalised` rows, of which there is
    one at least. Repetition counts prompt and output (once each), the other two the output."""
    ids, counts, sizes = array("q"), array("q"), list[int]()
    for i, seen in penalised:
        seen.read(rows[i].token_ids)
        row_ids, row_counts = seen.behind(rows[i].draft)
        ids += row_ids
        counts += row_counts
        sizes.append(len(row_ids))
    if not ids:
        return
    device = logits.device
    # [4, P] to [4, N]; double holds row numbers, and rounds a count's penalty once.
    settings = torch.tensor([_penalties(i, rows[i].params) for i, _ in penalised], dtype=torch.float64).T
    owners, repetition, presence, frequency = settings.to(device).repeat_interleave(
        torch.tensor(sizes, device=device), dim=1
    )
    where = owners.long(), torch.frombuffer(ids, dtype=torch.int64).to(device)
    times = torch.frombuffer(counts, dtype=torch.int64).to(device)
    values, penalty = logits[where], repetition.to(logits.dtype)
    values = torch.where(values > 0, values / penalty, values * penalty)
    logits[where] = values - (presence * (times > 0) + frequency * times).to(logits.dtype)


def _penalties(row: int, params: SamplingParams) -> tuple[float, float, float, float]:
    return float(row), params.repetition_penalty, params.presence_penalty, params.frequency_penalty


def _draw(logits: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """One token [S] of each row of `logits` [S, V], by exponential races.

    Among exponential clocks of rates p the first to ring is i with probability p_i; so what has the largest
    p / exponential noise wins. A first race picks a group of tokens by its mass, a second one a token of
    that group: the same distribution for a fraction of the noise. Unlike a walk along the cumulated
    probabilities, a race has another winner after rounding only where it was as good as tied.
    """
    device = logits.device
    scaled = logits / _column([row.params.temperature for row in rows], device)
    scaled -= scaled.amax(dim=-1, keepdim=True)
    weights = _truncate(scaled.exp_(), rows)  # [S, V], the best token's is 1
    num_rows, vocab_size = weights.shape
    num_groups = -(-vocab_size // _GROUP)
    groups = F.pad(weights, (0, num_groups * _GROUP - vocab_size)).view(num_rows, num_groups, _GROUP)
    keys = torch.tensor([_key(row) for row in rows], device=device)[:, None]
    # Numbers below zero are the groups' and never a token's, so no noise is used twice.
    group_numbers = torch.arange(-num_groups, 0, device=device)
    winners = (groups.sum(dim=-1) / _noise(keys, group_numbers)).argmax(dim=-1, keepdim=True)  # [S, 1]
    members = groups.gather(1, winners[:, :, None].expand(-1, 1, _GROUP)).squeeze(1)  # [S, _GROUP]
    token_ids = winners * _GROUP + torch.arange(_GROUP, device=device)
    best = (members / _noise(keys, token_ids)).argmax(dim=-1, keepdim=True)
    return token_ids.gather(1, best).squeeze(1)


def _truncate(weights: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """Zeroes what top-k, then top-p of what is left, then min-p cut off `weights` [S, V], which it may change.

    Tokens that tie with the lowest survivor survive too. At least the best token always does.
    """
    vocab_size = weights.shape[-1]
    floors = _column([row.params.min_p for row in rows], weights.device)
    cut = [i for i, row in enumerate(rows) if 0 < row.params.top_k < vocab_size or row.params.top_p < 1.0]
    if cut:
        where = torch.tensor(cut, device=weights.device)
        limits = [k if 0 < k < vocab_size else vocab_size for k in (rows[i].params.top_k for i in cut)]
        of_cut = weights if len(cut) == len(rows) else weights.index_select(0, where)
        cut_floors = _top_floors(of_cut, limits, [rows[i].params.top_p for i in cut])
        floors[where] = floors[where].maximum(cut_floors)
    elif all(row.params.min_p == 0.0 for row in rows):
        return weights
    return weights.masked_fill_(weights < floors, 0.0)


def _top_floors(weights: Tensor, limits: Sequence[int], top_p: Sequence[float]) -> Tensor:
    """The lowest weight [C, 1] within top-k (`limits`) and top-p: the fewest tokens whose share reaches p.

    Looks at the best few tokens first and at more only where their mass does not reach p, as a sort of the
    whole vocabulary costs more than a step of a small model. Sums in double, so that the width does not show.
    """
    device, vocab_size = weights.device, weights.shape[-1]
    is_limited = [limit < vocab_size for limit in limits]
    width = max([_FIRST_CANDIDATES, *(limit for limit in limits if limit < vocab_size)])
    limit = torch.tensor(limits, device=device)[:, None]
    share = _column(top_p, device, torch.float64)
    whole = _whole(weights)
    while True:
        width = min(width, vocab_size)
        best = weights.topk(width, dim=-1).values  # [C, width], descending
        in_top_k = torch.arange(width, device=device) < limit
        mass = best.double() * in_top_k
        summed = mass.cumsum(dim=-1)
        wanted = share * torch.where(limit < vocab_size, summed[:, -1:], whole)
        is_enough = (summed[:, -1:] >= wanted).squeeze(1).tolist()
        if width == vocab_size or all(map(or_, is_limited, is_enough)):
            break
        width *= 8
    keep = in_top_k & (summed - mass < wanted)
    keep[:, 0] = True
    return best.masked_fill(~keep, torch.inf).amin(dim=-1, keepdim=True)


def _whole(weights: Tensor) -> Tensor:
    """The double sums [C, 1] of `weights` [C, V]: of one alone as of many, where torch would share a row out."""
    if len(weights) == 1:
        return _whole(weights.expand(2, -1))[:1]
    return weights.sum(dim=-1, keepdim=True, dtype=torch.float64)


def _column(values: Iterable[float], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(list(values), dtype=dtype, device=device)[:, None]


def _key(row: SampleRow) -> int:
    """64 bits as a signed integer that stand for (seed, sequence index, position)."""
    key = 0
    for part in (row.params.seed or 0, row.index, row.position):
        key = _mix((key ^ part % _BITS) + _GOLDEN)
    return _signed(key)


def _mix(value: int) -> int:
    """SplitMix64's finaliser over the integers modulo 2**64; `_noise` does the same to tensors."""
    value %= _BITS
    value = (value ^ value >> 30) * _MIX_1 % _BITS
    value = (value ^ value >> 27) * _MIX_2 % _BITS
    return value ^ value >> 31


def _signed(value: int) -> int:
    return value - _BITS if value >= _BITS // 2 else value


def _noise(keys: Tensor, numbers: Tensor) -> Tensor:
    """Exponential noise [S, N] float32 above 0 for keys [S, 1] and numbers [N] or [S, N], int64."""
    bits = numbers * _signed(_GOLDEN) + keys  # wraps around, as all of this
    bits = (bits ^ _shifted(bits, 30)) * _signed(_MIX_1)
    bits = (bits ^ _shifted(bits, 27)) * _signed(_MIX_2)
    bits = bits ^ _shifted(bits, 31)
    # 53 bits, not 24: small noise wins races, so its grain there must be finer than any probability.
    uniform = (_shifted(bits, 11).float() + 0.5) * 2.0**-53
    return -torch.log1p(-uniform.clamp(max=1.0 - 2.0**-24))


def _shifted(bits: Tensor, places: int) -> Tensor:
    """The logical right shift, which torch has only for unsigned types."""
    return (bits >> places) & (2 ** (64 - places) - 1)


def _logprobs(
    logits: Tensor, rows: Sequence[SampleRow], token_ids: Sequence[int]
) -> list[TokenLogprobs | None]:
    """What the rows asked for, from the log-softmax of the unchanged logits."""
    asked = [(i, row.params.logprobs) for i, row in enumerate(rows) if row.params.logprobs is not None]
    found: list[TokenLogprobs | None] = [None] * len(rows)
    if not asked:
        return found
    where = torch.tensor([i for i, _ in asked], device=logits.device)
    told = logprobs_of(logits[where], [token_ids[i] for i, _ in asked], [count for _, count in asked])
    for (i, _), entry in zip(asked, told, strict=True):
        found[i] = entry
    return found
