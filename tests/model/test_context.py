"""Packed and padded batches through the same modules give the same hidden states."""

import pytest
import torch

from model.config import TransformerConfig
from model.layers.grouped_context import AttentionGroup, GroupedContext, PackedStore
from tests.tiny import BERT, T5, random_model


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
