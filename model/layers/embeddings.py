"""Token ids to vectors: words, and where the family has them positions, segments and a norm."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.config import TransformerConfig
from model.layers.norms import build_norm
from model.layers.positions import sinusoids
from model.layers.table import Table


class Embeddings(nn.Module):
    """The input table, shared by both stacks of an encoder-decoder and by a tied head.

    A decoder with positions and a norm of its own is given the `words` of its encoder.
    """

    sinusoids: Tensor | None

    def __init__(self, config: TransformerConfig, words: Table | None = None) -> None:
        super().__init__()
        size, num_rows = config.hidden_size, config.max_positions + config.position_offset
        self.dtype: torch.dtype | None = None
        """Of what is looked up; None: as the table is."""
        self.scale, self.position_offset = config.embedding_scale, config.position_offset
        self.words = Table(config.vocab_size, size) if words is None else words
        self.positions = Table(num_rows, size) if config.position == "learned" else None
        is_computed = config.position == "sinusoidal"
        table = sinusoids(num_rows, size, config.frequency_shift) if is_computed else None
        self.register_buffer("sinusoids", table, persistent=False)
        self.types = Table(config.type_vocab_size, size) if config.type_vocab_size else None
        self.norm = build_norm(config) if config.embedding_norm else None
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, ids: Tensor, positions: Tensor, type_ids: Tensor | None = None) -> Tensor:
        """[num_tokens] ids, positions and segment ids to [num_tokens, hidden_size]."""
        x: Tensor = self.words(ids)
        if self.dtype is not None:
            x = x.to(self.dtype)
        if self.scale != 1.0:
            # Rounded to the model's dtype first, as Gemma was trained.
            x = x * torch.tensor(self.scale, dtype=x.dtype).item()
        if self.position_offset:
            positions = positions + self.position_offset
        if self.types is not None:
            if type_ids is None or self.types.num_embeddings == 1:
                # RoBERTa's table has one row, but a tokenizer may number two segments all the same.
                type_ids = torch.zeros_like(ids)
            x = x + self.types(type_ids)
        if self.positions is not None:
            x = x + self.positions(positions)
        if self.sinusoids is not None:
            x = x + functional.embedding(positions, self.sinusoids).to(x.dtype)
        if self.norm is not None:
            x = self.norm(x)
        return self.dropout(x)
