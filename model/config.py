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

    position: Literal["none", "learned", "relative", "rotary", "sinusoidal"]
    """How tokens learn where they stand; "none" leaves it to `disentangled`."""
    rope_theta: float = 10000.0
    relative_buckets: int = 32
    relative_max_distance: int = 128
    position_offset: int = 0
    """Row of the position table that position 0 reads (BART 2, RoBERTa pad+1); the table has as many rows more."""
    disentangled: tuple[Literal["c2p", "p2c"], ...] = ()
    """DeBERTa: which scores between contents and relative positions are added to every layer's own.

    `relative_max_distance` positions are told apart, or `relative_buckets` where it is not 0."""
    shared_position_projections: bool = True
    """Whether the contents' query and key projections are the relative positions' too."""
    relative_norm: bool = False
    """Whether the table of relative positions goes through a norm."""
    layer_windows: tuple[int, ...] = ()
    """Per layer, how many keys back a query may look, itself counted, and an encoder's as many ahead; 0: all.
    Empty where every layer looks everywhere."""
    layer_rope_thetas: tuple[float, ...] = ()
    """Per layer, where layers differ. `rope_scaling` is then for the layers without a window alone."""
    rope_scaling: Mapping[str, Any] = field(default_factory=dict)
    """How angles are stretched past the trained length, as published; empty where they are not."""
    frequency_shift: int = 0
    """Sinusoids fall to 1/10000 in hidden_size / 2 - shift steps: tensor2tensor's in one less."""
    norm: Literal["layernorm", "rmsnorm"]
    norm_eps: float
    pre_norm: bool
    qk_norm: bool = False
    """Queries and keys are normed, each head by itself, before they are turned (Qwen 3, Gemma 3)."""
    norm_offset: float = 0.0
    """What is added to an RMSNorm's stored weights: Gemma stores their distance from one."""
    norm_bias: bool = True
    sandwich_norm: bool = False
    """What attention and feed-forward give is normed too, before it is added (Gemma 2 and 3)."""
    skip_first_norm: bool = False
    """The first layer's attention takes the embeddings as they are: they were normed (ModernBERT)."""
    activation: str
    gated_mlp: bool = False
    attention_bias: bool
    output_bias: bool
    mlp_bias: bool
    attention_scale: float
    type_vocab_size: int = 0
    embedding_norm: bool = False
    embedding_scale: float = 1.0
    tie_embeddings: bool = True
    logit_scale: float = 1.0
    logit_bias: bool = False
    """A number is added to each token's logit."""
    pooler_activation: str = "tanh"
    """Between the two layers of a sequence-class head; BERT has tanh, DistilBERT relu, DeBERTa gelu."""

    head_transform: bool = False
    """Every classifier stands on the masked LM's dense layer, activation and norm (ModernBERT)."""
    head_bias: bool = True
    """Of the dense layer in a masked LM's head and in that transform."""
    classifier_pooling: Literal["cls", "mean"] = "cls"

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
        if self.disentangled and self.kind != "encoder":
            raise CheckpointError("disentangled attention is served in encoders only")
        if self.position == "rotary" and self.head_dim % 2:
            raise CheckpointError(f"rotary positions need an even head size, not {self.head_dim}")
        num_layers = self.num_encoder_layers + self.num_decoder_layers
        for name, values in (
            ("attention windows", self.layer_windows),
            ("rope thetas", self.layer_rope_thetas),
        ):
            if values and len(values) != num_layers:
                raise CheckpointError(f"{len(values)} {name} for {num_layers} layers")
        if min(self.layer_windows, default=0) < 0:
            raise CheckpointError(f"an attention window of {min(self.layer_windows)} keys")
        if self.layer_windows and (self.position == "relative" or self.kind == "encoder-decoder"):
            raise CheckpointError("attention windows are served for one stack without a relative bias only")
        if self.position == "sinusoidal" and self.hidden_size % 2:
            raise CheckpointError(f"sinusoidal positions need an even hidden size, not {self.hidden_size}")
