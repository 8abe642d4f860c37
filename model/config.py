"""What a Transformer is: the axes along which published checkpoints differ. Knows no tensors."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args, get_origin

Kind = Literal["encoder", "decoder", "encoder-decoder"]
Head = Literal[
    "none", "lm", "masked-lm", "pretraining", "next-sentence", "sequence-class", "token-class", "span"
]


MAX_LAYERS, MAX_SIZE, MAX_POSITIONS = 1000, 2**24, 2**31
"""Far above what is published: a larger number is a broken config, which would take all memory or time."""


NO_ANSWER = "no_answer"
"""In `config.json` under `quartet`: see `TransformerConfig.no_answer_value`."""


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

    position: Literal["none", "learned", "relative", "rotary", "sinusoidal"]
    """How tokens learn where they stand; "none" leaves it to `disentangled`."""
    rope_theta: float = 10000.0
    rope_scaling: Mapping[str, Any] = field(default_factory=dict)
    """How rotary frequencies are stretched over longer texts; see `model.families.rope`. Empty: not at all."""
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
    frequency_shift: int = 0
    """Sinusoids fall to 1/10000 in hidden_size / 2 - shift steps: tensor2tensor's in one less."""
    norm: Literal["layernorm", "rmsnorm"]
    norm_eps: float
    pre_norm: bool
    qk_norm: bool = False
    """Queries and keys are normed, each head by itself, before they are turned (Qwen3, Gemma 3)."""
    norm_offset: float = 0.0
    """What is added to an RMSNorm's stored weights: Gemma stores their distance from one."""
    norm_bias: bool = True
    """Of LayerNorms; ModernBERT publishes none."""
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
    """Words are multiplied by it after look-up (BART and its relatives, Gemma)."""
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

    @property
    def no_answer_value(self) -> float:
        """Of a span head: the logit of "no answer in this context" beside those of spans, each of which counts by
        how far it is above its window's first token. 0 where nobody calibrated it."""
        told = self.extra.get("quartet")
        return float(told.get(NO_ANSWER, 0.0)) if isinstance(told, Mapping) else 0.0

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


def _check_type(name: str, kind: object, value: object) -> None:
    """JSON brings anything: a size as a string, a switch as a number, NaN."""
    if kind is int and type(value) is not int:
        raise CheckpointError(f"{name} must be a whole number, not {value!r:.40}")
    if kind is bool and type(value) is not bool:
        raise CheckpointError(f"{name} must be true or false, not {value!r:.40}")
    if kind is float and not (type(value) in (int, float) and math.isfinite(value)):  # type: ignore[arg-type]
        raise CheckpointError(f"{name} must be a finite number, not {value!r:.40}")
    if get_origin(kind) is tuple:
        for one in value:  # type: ignore[attr-defined]
            _check_type(f"each of {name}", get_args(kind)[0], one)


def _check_range(name: str, value: int, most: int) -> None:
    if not 1 <= value <= most:
        raise CheckpointError(f"{name} must be from 1 to {most}, not {value!r:.40}")
