"""A checkpoint with random weights in the shape of a published one, Qwen2.5-0.5B: speed does not depend on values."""

from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from model.config import TransformerConfig
from model.loading import save_model
from model.transformer import Transformer

NAME = "qwen2.5-0.5b-shape"
SHAPE = TransformerConfig(
    family="qwen2",
    kind="decoder",
    head="lm",
    vocab_size=151_936,
    hidden_size=896,
    intermediate_size=4864,
    num_decoder_layers=24,
    num_heads=14,
    num_kv_heads=2,
    head_dim=64,
    max_positions=32_768,
    position="rotary",
    rope_theta=1e6,
    norm="rmsnorm",
    norm_eps=1e-6,
    pre_norm=True,
    activation="silu",
    gated_mlp=True,
    attention_bias=True,
    output_bias=False,
    mlp_bias=False,
    attention_scale=64**-0.5,
    tie_embeddings=True,
)


def write_checkpoint(folder: Path) -> None:
    """One gigabyte in bfloat16, beside a tokenizer of one word for each id."""
    torch.manual_seed(0)
    with torch.device("meta"):
        model = Transformer(SHAPE)
    model = model.to(torch.bfloat16).to_empty(device="cpu").requires_grad_(False)
    for parameter in model.parameters():
        parameter.normal_(std=SHAPE.initializer_range)
    save_model(model, folder)
    words = {f"w{number}": number for number in range(SHAPE.vocab_size)}
    Tokenizer(WordLevel(words, unk_token="w0")).save(str(folder / "tokenizer.json"))
