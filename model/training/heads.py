"""A head of another task on a model that has been trained."""

import torch

from model.config import TransformerConfig
from model.families import published_name
from model.heads import fresh_head
from model.transformer import OWN, Transformer


@torch.no_grad()
def replace_head(model: Transformer, config: TransformerConfig) -> None:
    """Gives the model `config`'s head, fresh but for the layers that its old one has under the same published name."""
    known = {
        published_name(f"heads.{OWN}.{name}", model.config): parameter
        for name, parameter in (model.heads[OWN].named_parameters() if OWN in model.heads else ())
    }
    head = fresh_head(config)
    for name, parameter in head.named_parameters():
        old = known.get(published_name(f"heads.{OWN}.{name}", config))
        if old is not None and old.shape == parameter.shape:
            parameter.copy_(old)
    model.heads[OWN] = head
