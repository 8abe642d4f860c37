"""What a Transformer is: the axes along which published checkpoints differ. Knows no tensors."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

Kind = Literal["encoder", "decoder", "encoder-decoder"]
Head = Literal[
    "none", "lm", "masked-lm", "pretraining", "next-sentence", "sequence-class", "token-class", "span"
]


MAX_LAYERS, MAX_SIZE, MAX_POSITIONS = 1000, 2**24, 2**31
"""Far above what is published: a larger number is a broken config, which would take all memory or time."""


class CheckpointError(Exception):
    """A checkpoint folder cannot be used; the message is one line that names the file and the fault."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))  # a tensor's name, or a library, may bring its own lines


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """One Transformer, whichever family published it.

    Lengths are counted in tokens, sizes in features. `family` is a key of
    `model.families.FAMILIES`; everything else is family-free.
    """

    family: str
    kind: Kind
    head: Head = "none"
    labels: tuple[str, ...] = ()
    multi_label: bool = False

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_encoder_layers: int = 0
    num_decoder_layers: int = 0
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_positions: int

    position: Literal["learned", "relative", "rotary", "sinusoidal"]
    rope_theta: float = 10000.0
    rope_scaling: Mapping[str, Any] = field(default_factory=dict)
    """How rotary frequencies are stretched over longer texts; see `model.families.rope`. Empty: not at all."""
    relative_buckets: int = 32
    relative_max_distance: int = 128
    norm: Literal["layernorm", "rmsnorm"]
    norm_eps: float
    pre_norm: bool
    activation: str
    gated_mlp: bool = False
    attention_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool = False
    """Each head's queries and keys go through an RMSNorm before they are rotated (Qwen3)."""
    attention_scale: float
    type_vocab_size: int = 0
    embedding_norm: bool = False
    tie_embeddings: bool = True
    logit_scale: float = 1.0

    dropout: float = 0.0
    initializer_range: float = 0.02

    pad_token_id: int = 0
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    decoder_start_token_id: int | None = None

    extra: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the published `config.json` that the task layer reads and a writer must keep."""

    def __post_init__(self) -> None:
        for one in fields(self):
            _check_type(one.name, one.type, getattr(self, one.name))
        layers = {"encoder": self.num_encoder_layers, "decoder": self.num_decoder_layers}
        for stack in self.kind.split("-"):
            _check_range(f"num_{stack}_layers", layers[stack], MAX_LAYERS)
        for name in (
            "vocab_size",
            "hidden_size",
            "intermediate_size",
            "num_heads",
            "num_kv_heads",
            "head_dim",
        ):
            _check_range(name, getattr(self, name), MAX_SIZE)
        _check_range("max_positions", self.max_positions, MAX_POSITIONS)
        if self.num_heads % self.num_kv_heads:
            raise CheckpointError(
                f"{self.num_heads} attention heads cannot share {self.num_kv_heads} key-value heads"
            )
        if self.position == "rotary" and self.head_dim % 2:
            raise CheckpointError(f"rotary positions need an even head size, not {self.head_dim}")
        if not all(type(token) is int for token in self.eos_token_ids):
            raise CheckpointError(f"end tokens must be whole numbers, not {list(self.eos_token_ids)}")


def _check_type(name: str, kind: object, value: object) -> None:
    """JSON brings anything: a size as a string, a switch as a number, NaN."""
    if kind is int and type(value) is not int:
        raise CheckpointError(f"{name} must be a whole number, not {value!r:.40}")
    if kind is bool and type(value) is not bool:
        raise CheckpointError(f"{name} must be true or false, not {value!r:.40}")
    if kind is float and not (type(value) in (int, float) and math.isfinite(value)):  # type: ignore[arg-type]
        raise CheckpointError(f"{name} must be a finite number, not {value!r:.40}")


def _check_range(name: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise CheckpointError(f"{name} must be from 1 to {most}, not {value!r:.40}")
