"""The position-wise feed-forward network, plain and gated."""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from model import kernels
from model.config import TransformerConfig
from model.layers.activations import find_activation
from model.layers.linear import AdapterSpans, Linear, Together
from model.layers.packed import ONEDNN, Packing, ServedWeight

GATE_KERNELS: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = {
    "gelu_new": kernels.gelu_tanh_gate,
    "gelu_pytorch_tanh": kernels.gelu_tanh_gate,
    "silu": kernels.silu_gate,
}
"""`act(gate) * up` in one call, by the activation's name."""


class FeedForward(nn.Module):
    """`down(act(up(x)))`, or `down(act(gate(x)) * up(x))` (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.activation = find_activation(config.activation)
        self._gate_kernel = GATE_KERNELS.get(config.activation)
        wide = config.intermediate_size
        self.gate = Linear(config.hidden_size, wide, config.mlp_bias) if config.gated_mlp else None
        self.up = Linear(config.hidden_size, wide, config.mlp_bias)
        self.down = Linear(wide, config.hidden_size, config.mlp_bias)
        self.dropout = nn.Dropout(config.dropout)
        self.inputs = Together(self.up) if self.gate is None else Together(self.up, self.gate)

    def pack(self, packing: Packing = ONEDNN) -> list[ServedWeight]:
        """See `Linear.pack`."""
        return self.inputs.pack(packing) + self.down.pack(packing)

    def forward(self, x: Tensor, adapter_spans: AdapterSpans = ()) -> Tensor:
        """[num_tokens, hidden_size] to the same."""
        wide, *gate = self.inputs(x, adapter_spans)
        wide = self._gated(gate[0], wide) if gate else self.activation(wide)
        return self.down(self.dropout(wide) if self.training else wide, adapter_spans)

    def _gated(self, gate: Tensor, up: Tensor) -> Tensor:
        if self._gate_kernel is not None and kernels.can_run(gate, up):
            return self._gate_kernel(gate, up)
        return self.activation(gate) * up
