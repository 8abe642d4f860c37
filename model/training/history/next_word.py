"""The next word as an objective, with a part of a large vocabulary standing for all of it."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from model.training.history.word_models import WordModel
from model.training.history.words import Ids
from model.training.loop import Batch


class NextWord:
    """Cross entropy over blocks of a stream of words.

    In training each batch scores the `num_frequent` first words of the vocabulary, which has the frequent first, and
    `num_sampled` of the others, drawn anew, each of which stands for several in the softmax' sum (Bengio and Senécal
    2003). So a step takes a tenth of the time. Validation scores every word.
    """

    def __init__(
        self,
        stream: Ids,
        validation: Ids,
        vocab_size: int,
        *,
        block: int,
        num_frequent: int,
        num_sampled: int,
    ) -> None:
        num_blocks = (len(stream) - 1) // block
        self._blocks = torch.from_numpy(stream[: num_blocks * block + 1]).unfold(0, block + 1, block)
        self._validation = torch.from_numpy(validation)
        self._num_words = vocab_size
        self._num_frequent = min(num_frequent, vocab_size)
        self._num_sampled = min(num_sampled, vocab_size - self._num_frequent)
        self.lengths: list[tuple[int, ...]] = [(block,)] * num_blocks

    def collate(self, indices: list[int], seed: int) -> Batch:
        """See `Objective`."""
        rows = self._blocks[indices]
        draw = torch.Generator().manual_seed(seed)
        others = torch.randperm(self._num_words - self._num_frequent, generator=draw)[: self._num_sampled]
        return {
            "ids": rows[:, :-1],
            "mask": torch.ones_like(rows[:, :-1], dtype=torch.bool),
            "targets": rows[:, 1:],
            "candidates": torch.cat((torch.arange(self._num_frequent), others + self._num_frequent)),
        }

    def loss(self, model: WordModel, batch: Batch) -> tuple[Tensor, int]:
        """See `Objective`."""
        states, targets, candidates = (
            model(batch["ids"]).flatten(0, 1),
            batch["targets"].flatten(),
            batch["candidates"],
        )
        table = model.words.weight
        own = (states * table[targets]).sum(-1, dtype=torch.float32)
        shares = torch.zeros(len(candidates), device=states.device)
        if self._num_sampled:
            shares[self._num_frequent :] = math.log(
                (self._num_words - self._num_frequent) / self._num_sampled
            )
        scores = functional.linear(states, table[candidates]).float() + shares
        places = torch.full((self._num_words,), -1, device=states.device)
        places[candidates] = torch.arange(len(candidates), device=states.device)
        rows = (places[targets] >= 0).nonzero()[:, 0]
        scores[rows, places[targets[rows]]] = float("-inf")  # the right word is counted once, as itself
        loss = (torch.logaddexp(scores.logsumexp(-1), own) - own).mean()
        return loss, len(targets)

    def validate(self, model: WordModel) -> dict[str, float]:
        """Loss and perplexity a word over the whole vocabulary."""
        if not len(self._validation):
            return {}
        loss = float(model.word_losses(self._validation[1:], int(self._validation[0])).mean())
        return {"loss": loss, "perplexity": math.exp(loss)}
