"""Tiny random checkpoints of each kind, the same for the same seed."""

from dataclasses import replace
from typing import Any

import torch

from model.config import TransformerConfig
from model.transformer import Transformer

_SMALL: dict[str, Any] = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_heads": 4}

LLAMA = TransformerConfig(
    family="llama",
    kind="decoder",
    head="lm",
    **_SMALL,
    num_decoder_layers=2,
    num_kv_heads=2,
    head_dim=10,
    max_positions=128,
    position="rotary",
    norm="rmsnorm",
    norm_eps=1e-6,
    pre_norm=True,
    activation="silu",
    gated_mlp=True,
    attention_bias=False,
    output_bias=False,
    mlp_bias=False,
    attention_scale=10**-0.5,
    tie_embeddings=False,
    initializer_range=0.3,
    bos_token_id=1,
    eos_token_ids=(2,),
)

T5 = TransformerConfig(
    family="t5",
    kind="encoder-decoder",
    head="lm",
    **_SMALL,
    num_encoder_layers=2,
    num_decoder_layers=3,
    num_kv_heads=4,
    head_dim=10,
    max_positions=128,
    position="relative",
    relative_buckets=8,
    relative_max_distance=16,
    norm="rmsnorm",
    norm_eps=1e-6,
    pre_norm=True,
    activation="gelu_new",
    gated_mlp=True,
    attention_bias=False,
    output_bias=False,
    mlp_bias=False,
    attention_scale=1.0,
    logit_scale=32**-0.5,
    eos_token_ids=(1,),
    decoder_start_token_id=0,
)

BERT = TransformerConfig(
    family="bert",
    kind="encoder",
    head="sequence-class",
    labels=("bad", "fair", "good"),
    **_SMALL,
    num_encoder_layers=2,
    num_kv_heads=4,
    head_dim=8,
    max_positions=64,
    position="learned",
    norm="layernorm",
    norm_eps=1e-12,
    pre_norm=False,
    activation="gelu",
    attention_bias=True,
    output_bias=True,
    mlp_bias=True,
    attention_scale=8**-0.5,
    type_vocab_size=2,
    embedding_norm=True,
    initializer_range=0.3,
)


def random_model(
    config: TransformerConfig, seed: int = 0, dtype: torch.dtype = torch.float64, **changes: Any
) -> Transformer:
    """In eval mode. float64 by default, so that rounding cannot make two right answers differ."""
    torch.manual_seed(seed)
    return Transformer(replace(config, **changes)).to(dtype).eval().requires_grad_(False)
