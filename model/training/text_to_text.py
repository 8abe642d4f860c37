"""The objective of encoder-decoders: text in, text out (translation, splitting, summaries), and the answers of one."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from model.beam_decoding import generate_beams
from model.beam_search import BeamSettings
from model.generation_config import GenerationConfig
from model.greedy import generate_greedy
from model.training.data import bucketed_batches
from model.training.loop import Batch
from model.training.padded import on_device, text_to_text_batch, text_to_text_loss
from model.transformer import Transformer

Pair = tuple[list[int], list[int]]
Validate = Callable[[Transformer], dict[str, float]]
GREEDY = GenerationConfig()


class TextToText:
    """Source text in, target text out: translation, splitting, summaries."""

    def __init__(
        self,
        pairs: list[Pair],
        *,
        start: int,
        pad_id: int = 0,
        label_smoothing: float = 0.0,
        lexical: float = 0.0,
        validate: Validate | None = None,
        adapter: str | None = None,
    ) -> None:
        """`pairs` are ids with their end tokens; `start` is the decoder's first input; `lexical` weighs
        the loss that teaches the encoder single words."""
        self._adapter = adapter
        self._pairs, self._start, self._pad = pairs, start, pad_id
        self._label_smoothing, self._lexical = label_smoothing, lexical
        self._validate = validate
        self.lengths: list[tuple[int, ...]] = [(len(source), len(target)) for source, target in pairs]

    def collate(self, indices: list[int], seed: int) -> Batch:
        """See `Objective`."""
        return text_to_text_batch([self._pairs[index] for index in indices], self._start, self._pad)

    def loss(self, model: Transformer, batch: Batch) -> tuple[Tensor, int]:
        """See `Objective`."""
        return text_to_text_loss(model, batch, self._label_smoothing, self._lexical, self._adapter)

    def validate(self, model: Transformer) -> dict[str, float]:
        """See `Objective`."""
        return self._validate(model) if self._validate else {}


class PairLoss:
    """How well a model says known targets: the development score of text-to-text, quicker than to generate."""

    def __init__(self, pairs: list[Pair], start: int, pad_id: int, adapter: str | None = None) -> None:
        """As `TextToText`."""
        self._pairs, self._start, self._pad, self._adapter = pairs, start, pad_id, adapter

    @torch.no_grad()
    def __call__(self, model: Transformer) -> dict[str, float]:
        """The mean loss in nats a target token; nothing where there are no pairs."""
        if not self._pairs:
            return {}
        total, count = 0.0, 0
        lengths: list[tuple[int, ...]] = [(len(source), len(target)) for source, target in self._pairs]
        for batch in bucketed_batches(lengths, 4096, 64, 0):
            tensors = text_to_text_batch([self._pairs[index] for index in batch], self._start, self._pad)
            loss, size = text_to_text_loss(model, on_device(tensors, model), 0.0, adapter=self._adapter)
            total, count = total + float(loss) * size, count + size
        return {"loss": total / count}


_MOST_TOKENS = 256


def translate(
    model: Transformer,
    sources: Sequence[list[int]],
    generation: GenerationConfig = GREEDY,
    batch_tokens: int = 2048,
    adapter: str | None = None,
) -> list[list[int]]:
    """The answer to each source, both as ids, of thrice its length and 32 tokens, at most 256, as in the service:
    by beams where `generation` publishes some, and greedily through an adapter."""
    answers: list[list[int]] = [[] for _ in sources]
    for batch in bucketed_batches([(len(source),) for source in sources], batch_tokens, 128, 0):
        rows = [sources[index] for index in batch]
        limit = max(_longest(row) for row in rows)
        for index, row, ids in zip(batch, rows, _best(model, rows, generation, limit, adapter), strict=True):
            answers[index] = ids[: _longest(row)]
    return answers


def _longest(source: Sequence[int]) -> int:
    return min(3 * len(source) + 32, _MOST_TOKENS)


def _best(
    model: Transformer,
    rows: Sequence[list[int]],
    generation: GenerationConfig,
    limit: int,
    adapter: str | None,
) -> list[list[int]]:
    if generation.num_beams == 1 or adapter is not None:
        return generate_greedy(model, rows, limit, adapter=adapter)
    settings = BeamSettings(
        num_beams=generation.num_beams,
        max_tokens=limit,
        end_token_ids=model.config.eos_token_ids,
        length_penalty=generation.length_penalty,
        early_stopping=generation.early_stopping,
    )
    return [found[0][1] for found in generate_beams(model, rows, settings)]
