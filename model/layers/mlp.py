"""The position-wise feed-forward network, plain and gated."""

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor, nn
from torch.nn import functional

from model.config import CheckpointError, TransformerConfig
from model.layers.linear import AdapterSpans, Linear

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "gelu_new": partial(functional.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(functional.gelu, approximate="tanh"),
    "relu": functional.relu,
    "silu": functional.silu,
}


class FeedForward(nn.Module):
    """`down(act(up(x)))`, or `down(act(gate(x)) * up(x))` (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        if config.activation not in ACTIVATIONS:
            raise CheckpointError(
                f"unknown activation {config.activation!r}; known: {', '.join(sorted(ACTIVATIONS))}"
            )
        self.activation = ACTIVATIONS[config.activation]
        wide = config.intermediate_size
        self.gate = Linear(config.hidden_size, wide, config.mlp_bias) if config.gated_mlp else None
        self.up = Linear(config.hidden_size, wide, config.mlp_bias)
        self.down = Linear(wide, config.hidden_size, config.mlp_bias)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor, adapter_spans: AdapterSpans = ()) -> Tensor:
        """[num_tokens, hidden_size] to the same."""
        wide = self.up(x, adapter_spans)
        if self.gate is None:
            wide = self.activation(wide)
        else:
            wide = self.activation(self.gate(x, adapter_spans)) * wide
        return self.down(self.dropout(wide), adapter_spans)
