"""Rows of ids as rectangles, and the losses over them that several objectives share."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from model.training.loop import Batch
from model.transformer import Transformer

IGNORED = -100


def pad(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """Rows of ids to a rectangle [num_rows, longest]."""
    width = max(map(len, rows))
    return torch.tensor([list(row) + [value] * (width - len(row)) for row in rows])


def pad_mask(rows: Sequence[Sequence[int]]) -> Tensor:
    """True for real tokens of `pad(rows)`."""
    lengths = torch.tensor([len(row) for row in rows])
    return torch.arange(int(lengths.max()))[None] < lengths[:, None]


def on_device(batch: Batch, model: Transformer) -> Batch:
    """The batch where the model's weights are."""
    device = model.embeddings.words.weight.device
    return {name: value.to(device) for name, value in batch.items()}


def adapted_logits(model: Transformer, rows: Tensor, adapter: str | None) -> Tensor:
    """[n, hidden_size] decoder states to [n, vocab_size], all through `adapter` where there is one."""
    return model.logits(rows, ((adapter, 0, len(rows)),) if adapter else ())


def text_to_text_batch(
    pairs: Sequence[tuple[Sequence[int], Sequence[int]]], start: int, pad_id: int
) -> Batch:
    """Sources, targets shifted right behind `start`, and targets, padded; targets end in their end token."""
    sources = [source for source, _ in pairs]
    targets = [target for _, target in pairs]
    return {
        "source": pad(sources, pad_id),
        "source_mask": pad_mask(sources),
        "inputs": pad([[start, *target[:-1]] for target in targets], pad_id),
        "target_mask": pad_mask(targets),
        "targets": pad(targets, IGNORED),
    }


def text_to_text_loss(
    model: Transformer,
    batch: Batch,
    label_smoothing: float,
    lexical: float = 0.0,
    adapter: str | None = None,
) -> tuple[Tensor, int]:
    """Cross entropy over the real target tokens only, plus `lexical` times `lexical_loss`."""
    memory = model.encode_padded(batch["source"], batch["source_mask"], adapter=adapter)
    hidden = model.decode_padded(batch["inputs"], batch["target_mask"], memory, batch["source_mask"], adapter)
    is_real = batch["target_mask"]
    targets = batch["targets"][is_real]
    logits = adapted_logits(model, hidden[is_real], adapter).float()
    loss = functional.cross_entropy(logits, targets, label_smoothing=label_smoothing)
    if lexical:
        loss = loss + lexical * lexical_loss(model, memory, batch)
    return loss, len(targets)


def lexical_loss(model: Transformer, memory: Tensor, batch: Batch) -> Tensor:
    """How badly the source's tokens, each on its own, tell the words of the target.

    A target word's probability is the mean over the source tokens of what each one's encoder state
    predicts through the output table: Brown et al.'s Model 1 (1993) on top of the encoder. It teaches
    the encoder what words mean in the other language before the decoder knows where to look.
    """
    targets = batch["targets"].clamp(min=0)  # [b, t]
    logits = model.logits(memory).float()  # [b, s, vocab_size]
    scores = logits.gather(2, targets[:, None].expand(-1, logits.shape[1], -1))  # [b, s, t]
    scores = scores - logits.logsumexp(-1, keepdim=True)
    scores = scores.masked_fill(~batch["source_mask"][..., None], float("-inf"))
    sizes = batch["source_mask"].sum(1, keepdim=True).log()
    return -(scores.logsumexp(1) - sizes)[batch["target_mask"]].mean()
