"""A scheduled step as tensors: flat ids and positions, where to write, and the attention groups."""

from dataclasses import dataclass

import torch
from torch import Tensor

from app.engine.block_manager import num_blocks
from app.engine.grouping import Grouping, cut_tiles, find_places
from app.engine.scheduled_step import ScheduledStep
from app.engine.sequence import Sequence
from model.layers.grouped_context import AttentionGroup
from model.layers.linear import AdapterSpans


@dataclass(frozen=True)
class GroupedPart:
    """One pass over flat tokens: of the encoder, or of the decoder."""

    ids: Tensor
    positions: Tensor
    groups: list[AttentionGroup]
    order: Tensor | None
    adapter_spans: AdapterSpans


@dataclass(frozen=True)
class Slots:
    """Where each token's keys and values are written: block and offset in the block."""

    blocks: Tensor
    offsets: Tensor


@dataclass(frozen=True)
class LogitRows:
    """The rows of logits of one sequence: first `num_told`, which tell of its prompt, then `num_next`: none, or of its
    last token and each in the draft behind it."""

    sequence: Sequence
    num_told: int
    num_next: int


@dataclass(frozen=True)
class Batch:
    """The tensors of one step. `encoded` and `decoded` list the sequences in the order of the rows.

    `logit_rows` are the sequences of `decoded` whose logits are wanted, and of which tokens; `wanted` picks these from
    the flat decoder tokens, `logit_spans` are their adapters.
    """

    encoded: list[Sequence]
    decoded: list[Sequence]
    logit_rows: list[LogitRows]
    encode: GroupedPart | None
    encode_starts: list[int]
    type_ids: Tensor | None
    decode: GroupedPart | None
    slots: Slots | None
    cross_slots: Slots | None
    cross_groups: list[AttentionGroup]
    cross_order: Tensor | None
    wanted: Tensor | None
    logit_spans: AdapterSpans
    num_tokens: int
    num_padding: int


def build_batch(step: ScheduledStep, block_size: int, device: torch.device, grouping: Grouping) -> Batch:
    """Lays a step's sequences out flat; sequences of one adapter stand together."""
    encoded = sorted((s for s in step.sequences if s.needs_encode), key=lambda s: s.adapter or "")
    counts = [(s, n) for s, n in zip(step.sequences, step.num_tokens, strict=True) if n]
    counts.sort(key=lambda count: count[0].adapter or "")
    decoded, new = [s for s, _ in counts], [n for _, n in counts]
    rows: list[LogitRows] = []
    places: list[int] = []
    for start, (s, n) in zip(_starts(new), counts, strict=True):
        told = s.places_to_tell(s.num_computed_tokens + n)
        num_next = max(0, 1 + n - s.num_new_tokens)
        places += [start + place - s.num_computed_tokens for place in told]
        places += range(start + n - num_next, start + n)
        if told or num_next:
            rows.append(LogitRows(s, len(told), num_next))
    encode = decode = wanted = type_ids = cross_slots = slots = None
    cross_groups: list[AttentionGroup] = []
    cross_order = None
    num_tokens = num_padding = 0
    lengths = [len(s.source_ids) for s in encoded]
    if encoded:
        encode, num_padding = _encode_part(encoded, device, grouping)
        num_tokens += sum(lengths)
        type_ids = _type_ids(encoded, device)
        crossing = [s for s in encoded if s.token_ids]
        if crossing:
            spans = [(s.cross_block_table, 0, len(s.source_ids)) for s in crossing]
            cross_slots = _slots(spans, block_size, device)
    if decoded:
        decode, padding = _decode_part(decoded, new, block_size, device, grouping)
        num_tokens += len(decode.ids)
        num_padding += padding
        spans = [(s.block_table, s.num_computed_tokens, s.num_computed_tokens + n) for s, n in counts]
        slots = _slots(spans, block_size, device)
        wanted = torch.tensor(places, dtype=torch.long, device=device)
        if decoded[0].source_ids:
            cross_groups, cross_order = _cross_part(decoded, new, block_size, device, grouping)
    return Batch(
        encoded=encoded,
        decoded=decoded,
        logit_rows=rows,
        encode=encode,
        encode_starts=_starts(lengths),
        type_ids=type_ids,
        decode=decode,
        slots=slots,
        cross_slots=cross_slots,
        cross_groups=cross_groups,
        cross_order=cross_order,
        wanted=wanted,
        logit_spans=_adapter_spans([r.sequence for r in rows], [r.num_told + r.num_next for r in rows]),
        num_tokens=num_tokens,
        num_padding=num_padding,
    )


def _encode_part(
    encoded: list[Sequence], device: torch.device, grouping: Grouping
) -> tuple[GroupedPart, int]:
    """Every token of a source looks at every other; the keys are the rows themselves."""
    lengths = [len(s.source_ids) for s in encoded]
    starts = _starts(lengths)
    in_place, members = grouping.split_encodes(lengths)
    groups, padding = [], 0
    if in_place:
        groups.append(_in_place_encodes(lengths, starts, device))
    for group in members:
        longest = max(lengths[i] for i in group)
        first = torch.tensor([starts[i] for i in group])[:, None]
        size = torch.tensor([lengths[i] for i in group])[:, None]
        steps = torch.arange(longest)
        real = steps < size  # [b, t]
        rows = torch.where(real, first + steps, 0).to(device)
        mask = None if bool(real.all()) else real[:, None, None, :].to(device)
        steps = steps.to(device)
        groups.append(AttentionGroup(rows, rows, mask, steps[None], steps))
        padding += real.numel() - int(real.sum())
    ids = [i for s in encoded for i in s.source_ids]
    positions = [p for n in lengths for p in range(n)]
    part = GroupedPart(
        ids=torch.tensor(ids, device=device),
        positions=torch.tensor(positions, device=device),
        groups=groups,
        order=_order(in_place, members, lengths, device),
        adapter_spans=_adapter_spans(encoded, lengths),
    )
    return part, padding


def _in_place_encodes(lengths: list[int], starts: list[int], device: torch.device) -> AttentionGroup:
    """All encoded sequences; a key stands so far behind a query as `key_positions` say, from the first to the last."""
    firsts = torch.tensor(starts, device=device)
    longest = max(lengths)
    behind = torch.arange(1 - longest, longest, device=device)
    nought = torch.zeros(1, 1, dtype=torch.long, device=device)
    return AttentionGroup(firsts, firsts, None, nought, behind, torch.tensor(lengths, device=device))


def _decode_part(
    decoded: list[Sequence], new: list[int], block_size: int, device: torch.device, grouping: Grouping
) -> tuple[GroupedPart, int]:
    """Queries are the next `new` tokens of each, keys everything up to the last of them."""
    stops = [s.num_computed_tokens + n for s, n in zip(decoded, new, strict=True)]
    starts = _starts(new)
    spans = [(s, s.num_computed_tokens, stop) for s, stop in zip(decoded, stops, strict=True)]
    ids = [i for s, first, stop in spans for i in [*s.token_ids[first:stop], *_drafted(s, stop)]]
    flat_positions = torch.tensor([p for _, first, stop in spans for p in range(first, stop)], device=device)
    in_place, members = grouping.split(list(zip(new, stops, strict=True)))
    groups, padding = [], 0
    if in_place:
        tables = [s.block_table for s in decoded]
        tile = grouping.rows_a_tile
        groups.append(_in_place_group(in_place, new, tables, flat_positions + 1, block_size, tile))
    for group in members:
        sequences = [decoded[i] for i in group]
        longest = max(new[i] for i in group)
        blocks = _tables([decoded[i].block_table[: num_blocks(stops[i], block_size)] for i in group], device)
        first = torch.tensor([starts[i] for i in group])[:, None]
        computed = torch.tensor([s.num_computed_tokens for s in sequences])[:, None]
        size = torch.tensor([new[i] for i in group])[:, None]
        steps = torch.arange(longest)
        real = steps < size
        rows = torch.where(real, first + steps, 0).to(device)
        positions = torch.where(real, computed + steps, 0).to(device)  # [b, t]
        keys = torch.arange(blocks.shape[1] * block_size, device=device)
        mask = (keys <= positions[:, :, None])[:, None]  # [b, 1, t, k]
        groups.append(AttentionGroup(rows, blocks, mask, positions, keys))
        padding += real.numel() - sum(new[i] for i in group)
    part = GroupedPart(
        ids=torch.tensor(ids, device=device),
        positions=flat_positions,
        groups=groups,
        order=_order(in_place, members, new, device),
        adapter_spans=_adapter_spans(decoded, new),
    )
    return part, padding


def _drafted(sequence: Sequence, stop: int) -> list[int]:
    """What is computed of its draft by a step that goes to the position `stop`."""
    return sequence.draft.token_ids[: max(0, stop - len(sequence.token_ids))]


def _cross_part(
    decoded: list[Sequence], new: list[int], block_size: int, device: torch.device, grouping: Grouping
) -> tuple[list[AttentionGroup], Tensor | None]:
    """The same queries, looking at the encoder's keys: all of them, from every position."""
    starts = _starts(new)
    num_keys = [len(s.source_ids) for s in decoded]
    in_place, members = grouping.split(list(zip(new, num_keys, strict=True)))
    groups = []
    if in_place:
        seen = torch.tensor([n for t, n in zip(new, num_keys, strict=True) for _ in range(t)], device=device)
        tables = [s.cross_block_table for s in decoded]
        groups.append(_in_place_group(in_place, new, tables, seen, block_size, grouping.rows_a_tile))
    for group in members:
        longest = max(new[i] for i in group)
        blocks = _tables([decoded[i].cross_block_table for i in group], device)
        first = torch.tensor([starts[i] for i in group])[:, None]
        size = torch.tensor([new[i] for i in group])[:, None]
        steps = torch.arange(longest)
        rows = torch.where(steps < size, first + steps, 0).to(device)
        keys = torch.arange(blocks.shape[1] * block_size, device=device)
        ends = torch.tensor([num_keys[i] for i in group], device=device)
        mask = (keys < ends[:, None])[:, None, None, :]  # [b, 1, 1, k]
        groups.append(AttentionGroup(rows, blocks, mask, rows, keys))
    return groups, _order(in_place, members, new, device)


def _in_place_group(
    members: list[int],
    new: list[int],
    tables: list[list[int]],
    num_keys: Tensor,
    block_size: int,
    rows_a_tile: int,
) -> AttentionGroup:
    """The queries of some of the sequences; `num_keys` [num_tokens] that each token sees."""
    device, starts = num_keys.device, _starts(new)
    rows = torch.tensor([r for i in members for r in range(starts[i], starts[i] + new[i])], device=device)
    blocks = _tables([tables[i] for i in members], device)
    if len(rows) > len(members):  # looked up: repeat_interleave takes longer for so few
        owners = torch.tensor([j for j, i in enumerate(members) for _ in range(new[i])], device=device)
        blocks = blocks.index_select(0, owners)
    keys = torch.arange(blocks.shape[1] * block_size, device=device)
    seen = num_keys if len(rows) == len(num_keys) else num_keys[rows]
    tiles = None
    if rows_a_tile:
        tiles = torch.tensor(cut_tiles([new[i] for i in members], rows_a_tile), device=device)
    return AttentionGroup(rows[:, None], blocks, None, seen[:, None] - 1, keys, seen, tiles=tiles)


def _tables(tables: list[list[int]], device: torch.device) -> Tensor:
    """[b, blocks], short ones filled with their own first block, which the mask hides."""
    longest = max(map(len, tables))
    return torch.tensor([t + t[:1] * (longest - len(t)) for t in tables], device=device)


def _slots(spans: list[tuple[list[int], int, int]], block_size: int, device: torch.device) -> Slots:
    """(block table, first position, position after the last) each, laid end to end."""
    blocks, offsets = [], []
    for table, start, stop in spans:
        for position in range(start, stop):
            blocks.append(table[position // block_size])
            offsets.append(position % block_size)
    return Slots(torch.tensor(blocks, device=device), torch.tensor(offsets, device=device))


def _order(
    in_place: list[int], groups: list[list[int]], lengths: list[int], device: torch.device
) -> Tensor | None:
    places = find_places(in_place, groups, lengths)
    return None if places is None else torch.tensor(places, device=device)


def _starts(lengths: list[int]) -> list[int]:
    starts, total = [], 0
    for length in lengths:
        starts.append(total)
        total += length
    return starts


def _type_ids(encoded: list[Sequence], device: torch.device) -> Tensor | None:
    given = [getattr(s.request, "type_ids", None) or [0] * len(s.source_ids) for s in encoded]
    if not any(any(t) for t in given):
        return None
    return torch.tensor([t for types in given for t in types], device=device)


def _adapter_spans(sequences: list[Sequence], lengths: list[int]) -> AdapterSpans:
    spans: list[tuple[str, int, int]] = []
    row = 0
    for sequence, length in zip(sequences, lengths, strict=True):
        if sequence.adapter is not None:
            if spans and spans[-1][0] == sequence.adapter and spans[-1][2] == row:
                spans[-1] = (sequence.adapter, spans[-1][1], row + length)
            else:
                spans.append((sequence.adapter, row, row + length))
        row += length
    return spans
