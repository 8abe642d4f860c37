"""From logits to token ids: penalties, bias, temperature, truncation and the draw, for a whole step.

A pure function of its inputs. The noise of a token depends on (seed, sequence index, position, token id)
alone, so equal logits give equal tokens in any batch, and again when the sequence is computed anew. A greedy
step without penalties pays for one argmax and nothing else.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import or_

import torch
from torch import Tensor

from app.engine.protocol import TokenLogprobs
from app.engine.sampling_params import SamplingParams

_BITS = 2**64
_GOLDEN = 0x9E3779B97F4A7C15  # increment and multipliers of SplitMix64
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_FIRST_CANDIDATES = 128  # what top-p looks at first; nearly always enough


@dataclass(frozen=True, slots=True)
class SampleRow:
    """One row of the logits: whose next token it gives.

    `token_ids` are prompt and output so far, by reference; the next token's position is counted from
    `num_prompt_tokens`. `index` is the sequence's within its request; `eos_token_ids` end a sequence.
    """

    params: SamplingParams
    seed: int
    index: int
    token_ids: Sequence[int]
    num_prompt_tokens: int
    eos_token_ids: tuple[int, ...]

    @property
    def position(self) -> int:
        """The next token's place in the output, from 0."""
        return len(self.token_ids) - self.num_prompt_tokens


@dataclass(frozen=True, slots=True)
class Samples:
    """One token for each row; `logprobs[i]` is None where row i did not ask."""

    token_ids: list[int]
    logprobs: list[TokenLogprobs | None]


def sample(logits: Tensor, rows: Sequence[SampleRow]) -> Samples:
    """The next token of each row of `logits` [B, V] float32, which stay as they are.

    Token ids in the parameters must be below V (`SamplingParams.check_vocabulary`).
    """
    adjusted = _adjust(logits, rows)
    chosen = adjusted.argmax(dim=-1)  # [B]
    drawn = [i for i, row in enumerate(rows) if not row.params.is_greedy]
    if drawn:
        where = torch.tensor(drawn, device=logits.device)
        chosen[where] = _draw(adjusted[where], [rows[i] for i in drawn])
    token_ids: list[int] = chosen.tolist()
    return Samples(token_ids, _logprobs(logits, rows, token_ids))


def _adjust(logits: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """Penalties, then bias, then the mask that holds the end back; a copy only where a row needs one."""
    penalised = [i for i, row in enumerate(rows) if row.params.has_penalties]
    biased = [i for i, row in enumerate(rows) if row.params.logit_bias]
    too_short = [i for i, row in enumerate(rows) if row.position < row.params.min_tokens]
    if not (penalised or biased or too_short):
        return logits
    logits = logits.clone()
    for i in penalised:
        _penalise(logits[i], rows[i])
    for i in biased:
        bias = rows[i].params.logit_bias
        ids = torch.tensor(list(bias), device=logits.device)
        logits[i, ids] += torch.tensor(list(bias.values()), dtype=logits.dtype, device=logits.device)
    for i in too_short:
        params = rows[i].params
        ends = [*params.stop_token_ids, *(() if params.ignore_eos else rows[i].eos_token_ids)]
        logits[i, torch.tensor(ends, dtype=torch.long, device=logits.device)] = -torch.inf
    return logits


def _penalise(logits: Tensor, row: SampleRow) -> None:
    """Changes `logits` [V]. Repetition counts prompt and output (once each), the other two the output."""
    params = row.params
    if params.repetition_penalty != 1.0:
        seen = torch.tensor(list(set(row.token_ids)), dtype=torch.long, device=logits.device)
        values = logits[seen]
        penalty = params.repetition_penalty
        logits[seen] = torch.where(values > 0, values / penalty, values * penalty)
    if params.presence_penalty != 0.0 or params.frequency_penalty != 0.0:
        counts = Counter(row.token_ids[row.num_prompt_tokens :])
        ids = torch.tensor(list(counts), dtype=torch.long, device=logits.device)
        counted = torch.tensor(list(counts.values()), dtype=logits.dtype, device=logits.device)
        logits[ids] -= params.presence_penalty + params.frequency_penalty * counted


def _draw(logits: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """One token [S] of each row of `logits` [S, V], by the exponential race.

    Among exponential clocks of rates p the first to ring is token i with probability p_i; so the token with
    the largest p / exponential noise wins, and only tokens that survive the truncation need noise.
    """
    device = logits.device
    scaled = logits / _column([row.params.temperature for row in rows], device)
    scaled -= scaled.amax(dim=-1, keepdim=True)  # the best token is at 0
    is_candidate = scaled >= _floors(scaled, rows)  # [S, V]
    which_row, token_ids = is_candidate.nonzero(as_tuple=True)  # [N]
    keys = torch.tensor([_key(row) for row in rows], device=device)
    race = scaled[which_row, token_ids].exp() / _noise(keys[which_row], token_ids)
    scores = torch.zeros_like(scaled)
    scores[which_row, token_ids] = race
    return scores.argmax(dim=-1)


def _floors(scaled: Tensor, rows: Sequence[SampleRow]) -> Tensor:
    """The lowest scaled logit [S, 1] that survives truncation: top-k, then top-p of what is left, then min-p.

    Tokens that tie with the lowest survivor survive too. At least the best token always does.
    """
    vocab_size = scaled.shape[-1]
    floors = torch.full((len(rows), 1), -torch.inf, device=scaled.device)
    cut = [i for i, row in enumerate(rows) if 0 < row.params.top_k < vocab_size or row.params.top_p < 1.0]
    if cut:
        where = torch.tensor(cut, device=scaled.device)
        top_k = [rows[i].params.top_k for i in cut]
        limits = [k if 0 < k < vocab_size else vocab_size for k in top_k]
        floors[where] = _top_floors(scaled[where], limits, [rows[i].params.top_p for i in cut])
    if any(row.params.min_p > 0.0 for row in rows):
        floors = floors.maximum(_column([row.params.min_p for row in rows], scaled.device).log())
    return floors


def _top_floors(scaled: Tensor, limits: Sequence[int], top_p: Sequence[float]) -> Tensor:
    """The floors [C, 1] of top-k (`limits`) and top-p: the fewest tokens whose share of the top-k reaches p.

    Looks at the best few tokens first and at more only where their mass does not reach p, as a sort of the
    whole vocabulary costs more than a step of a small model. Sums in double, so that the width does not show.
    """
    vocab_size = scaled.shape[-1]
    is_limited = [limit < vocab_size for limit in limits]
    width = max([_FIRST_CANDIDATES, *(limit for limit in limits if limit < vocab_size)])
    limit = torch.tensor(limits, device=scaled.device)[:, None]
    share = _column(top_p, scaled.device, torch.float64)
    whole = scaled.double().exp().sum(dim=-1, keepdim=True)  # [C, 1]
    while True:
        width = min(width, vocab_size)
        best = scaled.topk(width, dim=-1).values  # [C, width], descending
        in_top_k = torch.arange(width, device=scaled.device) < limit
        mass = best.double().exp() * in_top_k
        summed = mass.cumsum(dim=-1)
        total = torch.where(limit < vocab_size, summed[:, -1:], whole)
        wanted = share * total
        is_enough = (summed[:, -1:] >= wanted).squeeze(1).tolist()
        if width == vocab_size or all(map(or_, is_limited, is_enough)):
            break
        width *= 8
    keep = in_top_k & (summed - mass < wanted)
    keep[:, 0] = True
    return best.masked_fill(~keep, torch.inf).amin(dim=-1, keepdim=True)


def _column(values: Iterable[float], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.tensor(list(values), dtype=dtype, device=device)[:, None]


def _key(row: SampleRow) -> int:
    """64 bits as a signed integer that stand for (seed, sequence index, position)."""
    key = 0
    for part in (row.seed, row.index, row.position):
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


def _noise(keys: Tensor, token_ids: Tensor) -> Tensor:
    """Exponential noise [N] float32 above 0 for pairs of key and token id [N] int64, which wrap around."""
    bits = token_ids * _signed(_GOLDEN) + keys
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
    logprobs = logits[where].log_softmax(dim=-1)
    chosen = torch.tensor([token_ids[i] for i, _ in asked], device=logits.device)
    of_chosen: list[float] = logprobs.gather(1, chosen[:, None]).squeeze(1).tolist()
    most = min(max(count for _, count in asked), logits.shape[-1])
    top_values, top_ids = (best.tolist() for best in logprobs.topk(most, dim=-1))
    for j, (i, count) in enumerate(asked):
        top = list(zip(top_ids[j][:count], top_values[j][:count], strict=True))
        found[i] = TokenLogprobs(of_chosen[j], top)
    return found
