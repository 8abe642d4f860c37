"""What a Transformer is: the axes along which published checkpoints differ. Knows no tensors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["encoder", "decoder", "encoder-decoder"]
Head = Literal[
    "none", "lm", "masked-lm", "pretraining", "next-sentence", "sequence-class", "token-class", "span"
]


class CheckpointError(Exception):
    """A checkpoint folder cannot be used; the message is one line that names the file and the fault."""


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
    relative_buckets: int = 32
    relative_max_distance: int = 128
    position_offset: int = 0  # the row of the position table that position 0 reads
    frequency_shift: int = (
        0  # sinusoids fall to 1/10000 in hidden_size / 2 - shift steps: tensor2tensor's in one less
    )
    norm: Literal["layernorm", "rmsnorm"]
    norm_eps: float
    pre_norm: bool
    activation: str
    gated_mlp: bool = False
    attention_bias: bool
    output_bias: bool
    mlp_bias: bool
    attention_scale: float
    type_vocab_size: int = 0
    embedding_norm: bool = False
    tie_embeddings: bool = True
    logit_scale: float = 1.0
    embedding_scale: float = 1.0  # words are multiplied by it after look-up
    logit_bias: bool = False  # a number added to each token's logit

    dropout: float = 0.0
    initializer_range: float = 0.02

    pad_token_id: int = 0
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    decoder_start_token_id: int | None = None

    extra: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the published `config.json` that the task layer reads and a writer must keep."""

    def __post_init__(self) -> None:
        if self.num_heads % self.num_kv_heads:
            raise CheckpointError(
                f"{self.num_heads} attention heads cannot share {self.num_kv_heads} key-value heads"
            )
        if self.position == "rotary" and self.head_dim % 2:
            raise CheckpointError(f"rotary positions need an even head size, not {self.head_dim}")
        if self.position == "sinusoidal" and self.hidden_size % 2:
            raise CheckpointError(f"sinusoidal positions need an even hidden size, not {self.hidden_size}")
