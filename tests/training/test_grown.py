"""An adapter that goes on from a smaller one begins with its outputs."""

from pathlib import Path

import pytest
import torch

from model.adapters import add_adapter, read_adapter, save_adapter
from model.config import CheckpointError
from model.training.grown import grow_adapter
from model.transformer import Transformer
from tests.tiny import BERT, random_model


def outputs(model: Transformer, name: str) -> torch.Tensor:
    ids = torch.tensor([[2, 5, 7, 9]])
    mask = torch.ones_like(ids).bool()
    with torch.no_grad():
        return model.span(model.encode_padded(ids, mask, adapter=name), name)


