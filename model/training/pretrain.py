"""Self-supervised objectives: masked LM with next sentence prediction, span corruption, next token."""

import itertools
import random
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from model.training.loop import Batch
from model.training.padded import (
    IGNORED,
    adapted_logits,
    on_device,
    pad,
    pad_mask,
    text_to_text_batch,
    text_to_text_loss,
)
from model.transformer import OWN, Transformer


class NextToken:
    """Causal language modelling over blocks of running text (Radford et al. 2018)."""

    def __init__(
        self,
        documents: Iterable[list[int]],
        validation: Iterable[list[int]],
        *,
        block: int,
        separator: int,
        unlearned: frozenset[int] = frozenset(),
        adapter: str | None = None,
        together: int = 16,
    ) -> None:
        """Documents are token ids, laid end to end with `separator` before each; ids in `unlearned` are
        read but never a target. `together` blocks are validated at once."""
        self._adapter, self._together = adapter, together
        self._blocks = _blocks(documents, block, separator)
        self._validation = _blocks(validation, block, separator)
        self._unlearned = torch.tensor(sorted(unlearned), dtype=torch.long)
        self.lengths: list[tuple[int, ...]] = [(len(ids),) for ids in self._blocks]

    def collate(self, indices: list[int], seed: int) -> Batch:
        """See `Objective`."""
        return self._batch([self._blocks[index] for index in indices])

    def loss(self, model: Transformer, batch: Batch) -> tuple[Tensor, int]:
        """See `Objective`."""
        hidden = model.decode_padded(batch["ids"], batch["mask"], adapter=self._adapter)
        logits = adapted_logits(model, hidden[:, :-1].flatten(0, 1), self._adapter).float()
        targets = batch["targets"].flatten()
        count = int((targets != IGNORED).sum())
        return functional.cross_entropy(logits, targets, ignore_index=IGNORED), count

    @torch.no_grad()
    def validate(self, model: Transformer) -> dict[str, float]:
        """The mean loss in nats a token, and its exponential."""
        losses = self.block_losses(model)
        count = sum(size for _, size in losses)
        if not count:
            return {}
        mean = sum(loss * size for loss, size in losses) / count
        return {"loss": mean, "perplexity": float(torch.exp(torch.tensor(mean))), "tokens": count}

    @torch.no_grad()
    def block_losses(self, model: Transformer) -> list[tuple[float, int]]:
        """Of every few blocks of the validation text, the mean loss and over how many tokens it was taken."""
        losses = []
        for start in range(0, len(self._validation), self._together):
            batch = self._batch(self._validation[start : start + self._together])
            loss, size = self.loss(model, on_device(batch, model))
            losses.append((float(loss), size))
        return losses

    def _batch(self, rows: list[list[int]]) -> Batch:
        ids, mask = pad(rows, 0), pad_mask(rows)
        targets = ids[:, 1:].masked_fill(~mask[:, 1:], IGNORED)
        targets = targets.masked_fill(torch.isin(targets, self._unlearned), IGNORED)
        return {"ids": ids, "mask": mask, "targets": targets}


def _blocks(documents: Iterable[list[int]], block: int, separator: int) -> list[list[int]]:
    stream: list[int] = []
    for document in documents:
        stream.append(separator)
        stream.extend(document)
    # Neighbouring blocks share a token, so that each token but the first is predicted once.
    return [stream[i : i + block + 1] for i in range(0, len(stream) - 1, block)]


class SpanCorruption:
    """T5's pre-training: replace spans by sentinels, write the spans (Raffel et al. 2020, section 3.1.4)."""

    def __init__(
        self,
        texts: list[list[int]],
        *,
        sentinels: Sequence[int],
        end: int,
        start: int,
        noise: float = 0.15,
        mean_span: float = 3.0,
        pad_id: int = 0,
    ) -> None:
        """`texts` are ids without the end token; `start` is the decoder's first input."""
        self._texts = [ids for ids in texts if len(ids) >= 4]
        self._sentinels, self._end, self._start, self._pad = list(sentinels), end, start, pad_id
        self._noise, self._mean_span = noise, mean_span
        self.lengths: list[tuple[int, ...]] = [(len(ids) + 1, max(3, len(ids) // 3)) for ids in self._texts]

    def corrupt(self, ids: Sequence[int], draw: random.Random) -> tuple[list[int], list[int]]:
        """(source, target) of one text: each span of the source is one sentinel, the target spells them."""
        num_noise = max(1, min(len(ids) - 1, round(len(ids) * self._noise)))
        num_spans = max(
            1, min(round(num_noise / self._mean_span), len(self._sentinels), len(ids) - num_noise)
        )
        noise = _composition(num_noise, num_spans, draw)
        keep = _composition(len(ids) - num_noise + 1, num_spans + 1, draw)
        keep[-1] -= 1  # text may end in a span; it never starts with one, so each gap is at least one
        source: list[int] = []
        target: list[int] = []
        at = 0
        for sentinel, kept, length in zip(self._sentinels, keep[:-1], noise, strict=False):
            source += ids[at : at + kept]
            source.append(sentinel)
            target.append(sentinel)
            target += ids[at + kept : at + kept + length]
            at += kept + length
        return [*source, *ids[at:], self._end], [*target, self._end]

    def collate(self, indices: list[int], seed: int) -> Batch:
        """See `Objective`."""
        draw = random.Random(seed)
        pairs = [self.corrupt(self._texts[index], draw) for index in indices]
        return text_to_text_batch(pairs, self._start, self._pad)

    def loss(self, model: Transformer, batch: Batch) -> tuple[Tensor, int]:
        """See `Objective`."""
        return text_to_text_loss(model, batch, 0.0)

    def validate(self, model: Transformer) -> dict[str, float]:
        """Nothing: what counts is what is fine-tuned from it."""
        return {}


def _composition(total: int, parts: int, draw: random.Random) -> list[int]:
    """`total` as a sum of `parts` numbers of at least one."""
    cuts = [0, *sorted(draw.sample(range(1, total), parts - 1)), total]
    return [after - before for before, after in itertools.pairwise(cuts)]


class MaskedLanguageModel:
    """BERT's pre-training: guess masked tokens, and whether B follows A (Devlin et al. 2019, section 3.1)."""

    def __init__(
        self,
        documents: list[list[list[int]]],
        validation: list[list[list[int]]],
        *,
        block: int,
        cls: int,
        sep: int,
        mask: int,
        first_word: int,
        vocab_size: int,
        pad_id: int = 0,
        unlearned: frozenset[int] = frozenset(),
        head: str = OWN,
        adapter: str | None = None,
        seed: int = 0,
    ) -> None:
        """Documents are lists of sentences, those lists of ids without special tokens. Replacement words
        are drawn from `first_word` to `vocab_size`; ids in `unlearned` are never masked."""
        self._cls, self._sep, self._mask, self._pad = cls, sep, mask, pad_id
        self._words = (first_word, vocab_size)
        self._special = torch.tensor(sorted({cls, sep, pad_id, *unlearned}))
        self._head, self._adapter = head, adapter
        self._pairs = _sentence_pairs(documents, block - 3, random.Random(seed))
        self._validation = _sentence_pairs(validation, block - 3, random.Random(seed))
        self.lengths: list[tuple[int, ...]] = [(len(a) + len(b) + 3,) for a, b, _ in self._pairs]

    def collate(self, indices: list[int], seed: int) -> Batch:
        """See `Objective`."""
        return self._batch([self._pairs[index] for index in indices], seed)

    def _batch(self, pairs: list[tuple[list[int], list[int], bool]], seed: int) -> Batch:
        rows = [[self._cls, *a, self._sep, *b, self._sep] for a, b, _ in pairs]
        types = [[0] * (len(a) + 2) + [1] * (len(b) + 1) for a, b, _ in pairs]
        ids, mask = pad(rows, self._pad), pad_mask(rows)
        generator = torch.Generator().manual_seed(seed)
        draw = torch.rand(ids.shape, generator=generator)
        chosen = (draw < 0.15) & ~torch.isin(ids, self._special) & mask
        targets = ids.masked_fill(~chosen, IGNORED)
        fate = torch.rand(ids.shape, generator=generator)
        words = torch.randint(*self._words, ids.shape, generator=generator)
        ids = ids.masked_fill(chosen & (fate < 0.8), self._mask)
        ids = torch.where(chosen & (fate >= 0.9), words, ids)
        follows = torch.tensor([0 if is_next else 1 for *_, is_next in pairs])
        return {"ids": ids, "mask": mask, "types": pad(types, 0), "targets": targets, "follows": follows}

    def loss(self, model: Transformer, batch: Batch) -> tuple[Tensor, int]:
        """The sum of both losses, each a mean."""
        tokens, sentences, targets = self._logits(model, batch)
        loss = functional.cross_entropy(sentences, batch["follows"])
        if len(targets):
            loss = loss + functional.cross_entropy(tokens, targets)
        return loss, len(targets)

    def validate(self, model: Transformer) -> dict[str, float]:
        """Accuracy on masked tokens and on sentence pairs, and the masked tokens' mean loss."""
        counts = self.validation_counts(model) or [(0.0, 0, 0, 0, 0)]
        loss, right, words, pairs_right, num_pairs = (sum(column) for column in zip(*counts, strict=True))
        if not words:
            return {}
        return {
            "masked_accuracy": 100 * right / words,
            "next_sentence_accuracy": 100 * pairs_right / num_pairs,
            "masked_loss": loss / words,
        }

    @torch.no_grad()
    def validation_counts(
        self, model: Transformer, limit: int | None = None
    ) -> list[tuple[float, int, int, int, int]]:
        """Of every 16 of the first `limit` validation pairs: the sum of the masked tokens' losses, how many of them
        were guessed and how many there are, how many pairs were told right and how many there are."""
        counts = []
        chosen = self._validation[:limit]
        for start in range(0, len(chosen), 16):
            pairs = chosen[start : start + 16]
            batch = self._batch(pairs, start)
            tokens, sentences, targets = self._logits(model, batch)
            loss = float(functional.cross_entropy(tokens, targets, reduction="sum"))
            right = int((tokens.argmax(-1) == targets).sum())
            pairs_right = int((sentences.argmax(-1) == batch["follows"]).sum())
            counts.append((loss, right, len(targets), pairs_right, len(pairs)))
        return counts

    def _logits(self, model: Transformer, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        hidden = model.encode_padded(batch["ids"], batch["mask"], batch["types"], self._adapter)
        is_chosen = batch["targets"] != IGNORED
        tokens = model.masked_lm(hidden[is_chosen], self._head).float()
        return tokens, model.next_sentence(hidden[:, 0], self._head).float(), batch["targets"][is_chosen]


def _sentence_pairs(
    documents: list[list[list[int]]], room: int, draw: random.Random
) -> list[tuple[list[int], list[int], bool]]:
    """(A, B, whether B follows A) with A and B of whole sentences where they fit; half of the B's come
    from another document."""
    pairs = []
    for number, sentences in enumerate(documents):
        at = 0
        while at < len(sentences):
            chunk: list[list[int]] = []
            while at < len(sentences) and (not chunk or sum(map(len, chunk)) + len(sentences[at]) <= room):
                chunk.append(sentences[at])
                at += 1
            split = draw.randint(1, max(1, len(chunk) - 1))
            first = [token for sentence in chunk[:split] for token in sentence]
            is_next = len(chunk) > 1 and (draw.random() < 0.5 or len(documents) < 2)
            if is_next:
                second = [token for sentence in chunk[split:] for token in sentence]
            else:
                at -= len(chunk) - split  # the unused half starts the next pair
                second = _elsewhere(documents, number, draw, max(8, room - len(first)))
            excess = len(first) + len(second) - room
            if excess > 0:
                cut = min(excess, max(0, len(first) - room // 2))
                first = first[: len(first) - cut]
                second = second[: room - len(first)]
            if first and second:
                pairs.append((first, second, is_next))
    return pairs


def _elsewhere(documents: list[list[list[int]]], number: int, draw: random.Random, room: int) -> list[int]:
    other = draw.randrange(len(documents) - 1) if len(documents) > 1 else 0
    sentences = documents[other + (other >= number and len(documents) > 1)]
    at = draw.randrange(len(sentences))
    out: list[int] = []
    while at < len(sentences) and len(out) < room:
        out += sentences[at]
        at += 1
    return out[:room]
