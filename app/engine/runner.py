"""Model and cache: a batch in, next-token logits or an encoder's outputs out."""

from dataclasses import dataclass
from itertools import accumulate, groupby

import torch
from torch import Tensor
from torch.nn import functional

from app.engine.batch import Batch
from app.engine.choosing import takes_largest
from app.engine.graphs import DecodeGraphs, GraphPlan, can_record
from app.engine.grouping import EachInPlace, Grouping, InTiles, LikeLengths
from app.engine.kv_cache import PagedStore
from app.engine.protocol import EncodeRequest
from app.engine.sequence import Sequence
from app.engine.threads import Threads
from model.blocks import Wanted
from model.kernels import can_decode, tiles
from model.kernels.paged import can_attend, rows_a_tile
from model.layers.grouped_context import GroupedContext, PackedStore
from model.pooling import Pooling
from model.transformer import OWN, Transformer


@dataclass(frozen=True)
class EncoderOutput:
    """What one encoder-only sequence asked for; `ids` are the tokens that "mask" put first."""

    values: Tensor
    ids: list[int]


class Runner:
    """Owns one model and its view of the arena. `grouping` is how its sequences are attended."""

    def __init__(
        self,
        model: Transformer,
        cache: Tensor | None,
        block_size: int,
        pooling: Pooling,
        is_deterministic: bool,
        num_threads: int,
    ) -> None:
        self.model, self.block_size, self.pooling = model, block_size, pooling
        self.device, self._dtype = model.embeddings.words.weight.device, model.dtype
        self._layers = None if cache is None else [cache[layer] for layer in range(len(cache))]
        self.grouping = EachInPlace() if is_deterministic else _grouping(model, self.device)
        self._graphs: DecodeGraphs | None = None
        self._threads = Threads(model.num_parameters, num_threads) if self.device.type == "cpu" else None

    def record(self, max_tokens: int, plan: GraphPlan) -> None:
        """Records decode steps of sequences of at most so many tokens, where keys are read in place."""
        is_in_place = self.grouping.split([(1, 1)])[0]
        if self._layers is not None and is_in_place and can_record(self.model):
            self._graphs = DecodeGraphs(self.model, self._layers, max_tokens, self.grouping.rows_a_tile, plan)

    @torch.inference_mode()
    def run(self, batch: Batch) -> tuple[Tensor | None, list[EncoderOutput]]:
        """Logits [num complete, vocab_size] float32 for the last token of each complete sequence, or where no more is
        asked and they need not be made, the words with the largest, int64 [num complete]; or the outputs of those that
        generate nothing, in the batch's order: the encoded sequences', or if any decode, the complete ones'."""
        if self._threads is not None:
            self._threads.use_for(batch.num_tokens)
        memory = None
        outputs: list[EncoderOutput] = []
        if batch.encode is not None:
            part = batch.encode
            context = GroupedContext(
                positions=part.positions,
                groups=part.groups,
                order=part.order,
                store=PackedStore(),
                dtype=self._dtype,
                adapter_spans=part.adapter_spans,
            )
            memory = self.model.encode(part.ids, context, batch.type_ids)
            if batch.decode is None:
                return None, self._encoder_outputs(batch, memory)
        if batch.decode is None or batch.slots is None or self._layers is None:
            return None, outputs
        if self._graphs is not None and self._graphs.takes(batch):
            return self._answers(batch, self._graphs.run(batch), outputs)
        part = batch.decode
        context = GroupedContext(
            positions=part.positions,
            groups=part.groups,
            order=part.order,
            store=PagedStore(self._layers, batch.slots.blocks, batch.slots.offsets),
            dtype=self._dtype,
            memory=memory,
            cross_groups=batch.cross_groups,
            cross_order=batch.cross_order,
            cross_store=self._cross_store(batch),
            adapter_spans=part.adapter_spans,
            memory_spans=batch.encode.adapter_spans if batch.encode is not None else (),
        )
        wanted = None
        if batch.wanted is not None and 0 < len(batch.wanted) < len(part.ids):
            wanted = Wanted(batch.wanted, batch.logit_spans)
        return self._answers(batch, self.model.decode(part.ids, context, wanted), outputs)

    def _answers(
        self, batch: Batch, hidden: Tensor, outputs: list[EncoderOutput]
    ) -> tuple[Tensor | None, list[EncoderOutput]]:
        """What `run` returns, from the last states of what is wanted."""
        if not batch.logit_rows:
            return None, outputs
        if self.model.config.head == "sequence-class":
            return None, self._classes([rows.sequence for rows in batch.logit_rows], hidden)
        if takes_largest(batch.logit_rows):
            words = self.model.largest_words(hidden, batch.logit_spans)
            if words is not None:
                return words, outputs
        return self.model.logits(hidden, batch.logit_spans).float(), outputs

    def _cross_store(self, batch: Batch) -> PagedStore | None:
        """Writes go to the new sequences' cross blocks; a step without new ones only reads."""
        if not batch.cross_groups or self._layers is None:
            return None
        slots = batch.cross_slots or batch.slots
        assert slots is not None
        return PagedStore(self._layers, slots.blocks, slots.offsets)

    def _classes(self, complete: list[Sequence], last: Tensor) -> list[EncoderOutput]:
        """Label logits from the last states [num complete, hidden_size], a head's rows (they lie together) at once."""
        values: list[Tensor] = []
        for head, group in groupby(complete, key=lambda s: s.adapter or OWN):
            rows = last[len(values) :][: len(list(group))]
            values += self.model.classify(rows, head)
        return [EncoderOutput(value, []) for value in values]

    def _encoder_outputs(self, batch: Batch, hidden: Tensor) -> list[EncoderOutput]:
        """One output a sequence; those that share adapter and kind go through their head together."""
        results: dict[int, EncoderOutput] = {}
        rows = {
            s.id: (start, start + len(s.source_ids))
            for s, start in zip(batch.encoded, batch.encode_starts, strict=True)
        }
        kinds: dict[tuple[str, str], list[Sequence]] = {}
        for sequence in batch.encoded:
            assert isinstance(sequence.request, EncodeRequest)
            kinds.setdefault((sequence.adapter or OWN, sequence.request.output), []).append(sequence)
        for (head, output), sequences in kinds.items():
            spans = [rows[s.id] for s in sequences]
            if output == "embedding":
                values = list(self._pool(hidden, spans))
            elif output in ("span", "token-class"):
                every = self.model.span if output == "span" else self.model.classify_tokens
                logits = every(torch.cat([hidden[a:b] for a, b in spans]), head)
                values = list(torch.split(logits, [b - a for a, b in spans]))
            elif output == "mask":
                results |= self._fill_masks(hidden, head, sequences, rows)
                continue
            else:
                if output == "class" and self.model.takes_mean(head):
                    first = torch.stack([hidden[a:b].mean(0) for a, b in spans])
                else:
                    first = hidden[[a for a, _ in spans]]
                classify = self.model.classify if output == "class" else self.model.next_sentence
                values = list(classify(first, head))
            results |= {s.id: EncoderOutput(v, []) for s, v in zip(sequences, values, strict=True)}
        return [results[s.id] for s in batch.encoded]

    def _pool(self, hidden: Tensor, spans: list[tuple[int, int]]) -> Tensor:
        """The rows of each span to one, [num spans, hidden_size] float32; each by itself, in the order of its rows."""
        if self.pooling.mode == "mean":
            rows = torch.tensor([row for a, b in spans for row in range(a, b)], device=self.device)
            firsts = torch.tensor([0, *accumulate(b - a for a, b in spans[:-1])], device=self.device)
            vectors = functional.embedding_bag(rows, hidden.float(), firsts, mode="mean")
        else:
            vectors = hidden[[a if self.pooling.mode == "cls" else b - 1 for a, b in spans]].float()
        return functional.normalize(vectors, dim=1) if self.pooling.normalize else vectors

    def _fill_masks(
        self, hidden: Tensor, head: str, sequences: list[Sequence], rows: dict[int, tuple[int, int]]
    ) -> dict[int, EncoderOutput]:
        """[num masks, top_k] probabilities among all tokens, only of candidates where there are any; and their ids."""
        wanted = [rows[s.id][0] + p for s in sequences for p in _request(s).positions]
        probabilities = self.model.masked_lm(hidden[wanted], head).float().softmax(-1)
        results, row = {}, 0
        for sequence in sequences:
            request = _request(sequence)
            mine = probabilities[row : row + len(request.positions)]
            ids = torch.tensor(request.candidates, device=mine.device)
            if request.candidates:
                mine = mine[:, ids]
            best = mine.topk(min(max(1, request.top_k), mine.shape[1]), dim=-1)
            found = ids[best.indices] if request.candidates else best.indices
            results[sequence.id] = EncoderOutput(best.values, found.flatten().tolist())
            row += len(request.positions)
        return results


def _grouping(model: Transformer, device: torch.device) -> Grouping:
    """The fastest that there is a kernel for."""
    config = model.config
    heads = config.num_heads, config.num_kv_heads, config.head_dim
    if config.num_decoder_layers and can_attend(device, model.dtype, *heads):
        return InTiles(rows_a_tile(config.num_heads, config.num_kv_heads))
    has_kernels, encodes_in_place = can_decode(device, model.dtype), not config.disentangled
    if has_kernels and config.position != "relative":  # tiles take no bias
        return InTiles(tiles.rows_a_tile(config.num_heads, config.num_kv_heads), encodes_in_place)
    return LikeLengths(has_kernels, has_kernels and encodes_in_place)


def _request(sequence: Sequence) -> EncodeRequest:
    assert isinstance(sequence.request, EncodeRequest)
    return sequence.request
