"""Text as it runs on: learnt and scored by the next token."""

import math
from collections.abc import Sequence

import numpy as np

from model.config import CheckpointError
from model.training.intervals import Indices, resampled
from model.training.own_data.examples import Example
from model.training.own_data.learner import Results, Setting
from model.training.pretrain import NextToken
from model.transformer import Transformer


class TextWriter:
    """The next token of running text by a decoder; texts are laid end to end and cut into blocks."""

    def __init__(self, setting: Setting) -> None:
        self._setting, self.config = setting, setting.base

    def token_counts(self, examples: Sequence[Example]) -> list[int]:
        """See `Learner`; end tokens are counted too."""
        return [len(ids) + 1 for ids in self._documents(examples)]

    def objective(self, train: Sequence[Example], dev: Sequence[Example], together: int = 16) -> NextToken:
        """See `Learner`."""
        begin, ends = self.config.bos_token_id, self.config.eos_token_ids
        separator = begin if begin is not None else next(iter(ends), None)
        if separator is None:
            raise CheckpointError(
                f"{self._setting.plan.base}: config.json names no token that a text begins or ends with"
            )
        return NextToken(
            self._documents(train),
            self._documents(dev),
            block=self._setting.plan.max_length,
            separator=separator,
            adapter=self._setting.adapter,
            together=together,
        )

    def finish(self, model: Transformer, dev: Sequence[Example]) -> dict[str, float | str]:
        """Nothing."""
        return {}

    def score(self, model: Transformer, test: Sequence[Example]) -> Results:
        """Perplexity a token, resampled by blocks."""
        blocks = np.array(self.objective([], test, together=1).block_losses(model))
        losses, counts = blocks[:, 0] * blocks[:, 1], blocks[:, 1]

        def perplexity(rows: Indices) -> float:
            return math.exp(min(100.0, float(losses[rows].sum() / counts[rows].sum())))

        return Results([resampled("perplexity", perplexity, len(blocks))])

    def _documents(self, examples: Sequence[Example]) -> list[list[int]]:
        """Ids; with an end token where texts begin with another one."""
        texts = [example.inputs[0] for example in examples]
        encoded = self._setting.tokenizer.encode_batch(texts, add_special_tokens=False)
        begin, ends = self.config.bos_token_id, self.config.eos_token_ids
        end = [ends[0]] if ends and begin is not None and begin not in ends else []
        return [[*encoding.ids, *end] for encoding in encoded]
