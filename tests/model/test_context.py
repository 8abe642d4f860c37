"""Packed and padded batches through the same modules give the same hidden states."""

import pytest
import torch

from model.adapters import add_adapter
from model.blocks import Wanted
from model.config import TransformerConfig
from model.layers.context import PaddedContext
from model.layers.grouped_context import AttentionGroup, GroupedContext, PackedStore
from tests.engine.test_encoder_decoders import BART
from tests.tiny import BERT, LLAMA, T5, random_model


@pytest.mark.parametrize("config", [BERT, T5], ids=lambda c: c.family)
def test_a_packed_encode_equals_the_padded_one(config: TransformerConfig) -> None:
    model = random_model(config)
    torch.manual_seed(3)
    ids = torch.randint(3, 90, (2, 6))
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    padded = model.encode_padded(ids, mask)[mask]
    rows = torch.tensor([[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 0, 0]])
    steps = torch.arange(6)
    group = AttentionGroup(rows, rows, mask[:, None, None, :], steps[None], steps)
    positions = torch.tensor([0, 1, 2, 3, 4, 5, 0, 1, 2, 3])
    context = GroupedContext(positions, [group], torch.arange(10), PackedStore(), torch.float64)
    torch.testing.assert_close(model.encode(ids[mask], context), padded)


@pytest.mark.parametrize("config", [LLAMA, T5, BART], ids=lambda c: c.family)
@pytest.mark.parametrize("rows", [[5], [2, 9, 11], []])
def test_the_last_layer_computes_the_wanted_rows_alone_and_the_same(
    config: TransformerConfig, rows: list[int]
) -> None:
    model = random_model(config)
    for parameter in add_adapter(model, "mine", config, rank=2, alpha=4):
        parameter.data = torch.randn(parameter.shape, dtype=torch.float64) * 0.1
    torch.manual_seed(3)
    ids = torch.randint(3, 90, (2, 6))
    mask = torch.ones_like(ids, dtype=torch.bool)
    memory = None if model.encoder is None else model.encode_padded(ids, mask).flatten(0, 1)
    context = PaddedContext(
        mask, True, memory, None if memory is None else mask, adapter_spans=[("mine", 6, 12)]
    )
    whole = model.decode(ids.flatten(), context)
    adapted = sum(row < 6 for row in rows)
    wanted = Wanted(torch.tensor(rows, dtype=torch.long), [("mine", adapted, len(rows))])
    torch.testing.assert_close(model.decode(ids.flatten(), context, wanted), whole[rows])
