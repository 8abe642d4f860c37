"""The two networks that say the next word, by recurrence and by attention, over one table of words each."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.families.llama import read
from model.transformer import Transformer


class WordModel(nn.Module, ABC):
    """Reads words and gives a state at each place; a word's score as the next one is its row of the table times it."""

    words: nn.Embedding

    @abstractmethod
    def forward(self, ids: Tensor) -> Tensor:
        """[b, t] words to [b, t, hidden_size]: each place has read itself and those before it."""

    @torch.no_grad()
    def word_losses(self, ids: Tensor, first: int, window: int = 128, together: int = 16) -> Tensor:
        """-log p in nats of each of the words `ids` [n] after the word `first`: [n].

        Each is predicted from as many words before it as `window` has, at least half of them; windows overlap by half.
        """
        half = window // 2
        stream = torch.cat((torch.tensor([first]), ids))
        starts = range(0, len(ids), half)
        # Made before the large ones that come and go: a small one kept amid them would split the memory of each.
        losses, done = torch.empty(len(ids)), 0
        # The first window has nothing before it and the last may be short: they are read alone.
        groups = [[0], *(list(starts[i : i + together]) for i in range(1, len(starts), together))]
        for group in [*groups[:-1], groups[-1][:-1], groups[-1][-1:]]:
            rows = [stream[max(0, at - half) : min(at + half, len(ids)) + 1] for at in group]
            if not rows:
                continue
            inputs = torch.stack([row[:-1] for row in rows])
            size = min(half, len(ids) - group[0])
            states = self(inputs)[:, -size:].flatten(0, 1)
            targets = torch.stack([row[-size:] for row in rows]).flatten()
            logits = functional.linear(states, self.words.weight)
            losses[done : done + len(targets)] = functional.cross_entropy(logits, targets, reduction="none")
            done += len(targets)
        return losses


class LstmWords(WordModel):
    """A stack of LSTMs (Hochreiter and Schmidhuber 1997) with dropout between, its table tied as Press and Wolf (2017)
    and Inan et al. (2017) do."""

    def __init__(self, vocab_size: int, size: int, num_layers: int, dropout: float) -> None:
        super().__init__()
        self.words = nn.Embedding(vocab_size, size)
        nn.init.uniform_(self.words.weight, -0.1, 0.1)
        self.lstm = nn.LSTM(size, size, num_layers, batch_first=True, dropout=dropout)
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: Tensor) -> Tensor:
        """See `WordModel`."""
        states, _ = self.lstm(self.dropout(self.words(ids)))
        out: Tensor = self.dropout(states)
        return out


class TransformerWords(WordModel):
    """Our decoder, in the shape of a published Llama config."""

    def __init__(self, vocab_size: int, architecture: Mapping[str, Any], dropout: float) -> None:
        super().__init__()
        config = read({**architecture, "vocab_size": vocab_size})
        self.transformer = Transformer(replace(config, dropout=dropout))

    @property
    def words(self) -> nn.Embedding:  # type: ignore[override]
        """The table, which the Transformer holds."""
        return self.transformer.embeddings.words

    def forward(self, ids: Tensor) -> Tensor:
        """See `WordModel`."""
        return self.transformer.decode_padded(ids, torch.ones_like(ids, dtype=torch.bool))
