"""The one Transformer: encoder, decoder or both over one embedding table, and heads on top."""

from torch import Tensor, nn
from torch.nn import functional

from model.blocks import Stack
from model.config import TransformerConfig
from model.heads import (
    HEADS,
    MaskedLMHead,
    NextSentenceHead,
    PretrainingHead,
    SequenceClassHead,
    SpanHead,
    TokenClassHead,
)
from model.layers.context import AttentionContext, PaddedContext
from model.layers.embeddings import Embeddings
from model.layers.linear import AdapterSpans, Linear

OWN = "own"
"""The name of the head that came with the checkpoint; adapters add heads under their names."""


class Transformer(nn.Module):
    """Built from its config with random weights; `model.loading` fills in published ones."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.encoder = Stack(config, is_decoder=False) if config.kind != "decoder" else None
        self.decoder = Stack(config, is_decoder=True) if config.kind != "encoder" else None
        self.lm_head: Linear | None = None
        if self.decoder is not None and not config.tie_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        self.heads = nn.ModuleDict()
        if config.head in HEADS:
            self.heads[OWN] = HEADS[config.head](config)
        if not self.embeddings.words.weight.is_meta:
            self._initialise()

    def encode(self, ids: Tensor, context: AttentionContext, type_ids: Tensor | None = None) -> Tensor:
        """[num_tokens] flat ids to hidden states [num_tokens, hidden_size]."""
        if self.encoder is None:
            raise ValueError(f"a {self.config.kind} has nothing to encode with")
        hidden: Tensor = self.encoder(self.embeddings(ids, context.positions, type_ids), context)
        return hidden

    def decode(self, ids: Tensor, context: AttentionContext) -> Tensor:
        """[num_tokens] flat ids to hidden states [num_tokens, hidden_size]; see `logits`."""
        if self.decoder is None:
            raise ValueError(f"a {self.config.kind} has nothing to decode with")
        hidden: Tensor = self.decoder(self.embeddings(ids, context.positions), context)
        return hidden

    def logits(self, hidden: Tensor, adapter_spans: AdapterSpans = ()) -> Tensor:
        """[..., hidden_size] decoder states to next-token logits [..., vocab_size].

        With `adapter_spans` the states are flat rows, [n, hidden_size].
        """
        if self.lm_head is not None:
            return self.lm_head(hidden, adapter_spans)
        if self.config.logit_scale != 1.0:
            hidden = hidden * self.config.logit_scale
        return functional.linear(hidden, self.embeddings.words.weight)

    def classify(self, first: Tensor, head: str = OWN) -> Tensor:
        """[b, hidden_size] states of the first tokens to label logits [b, num_labels]."""
        module = self.heads[head]
        assert isinstance(module, SequenceClassHead), f"{head} does not classify sequences"
        return module(first)

    def classify_tokens(self, hidden: Tensor, head: str = OWN) -> Tensor:
        """[n, hidden_size] to label logits [n, num_labels]."""
        module = self.heads[head]
        assert isinstance(module, TokenClassHead), f"{head} does not classify tokens"
        return module(hidden)

    def span(self, hidden: Tensor, head: str = OWN) -> Tensor:
        """[..., hidden_size] to start and end logits [..., 2]."""
        module = self.heads[head]
        assert isinstance(module, SpanHead), f"{head} finds no spans"
        return module(hidden)

    def masked_lm(self, hidden: Tensor, head: str = OWN) -> Tensor:
        """[n, hidden_size] states of masked tokens to vocabulary logits [n, vocab_size]."""
        module = self.heads[head]
        if isinstance(module, PretrainingHead):
            module = module.masked_lm
        assert isinstance(module, MaskedLMHead), f"{head} fills no masks"
        return module(hidden, self.embeddings.words.weight)

    def next_sentence(self, first: Tensor, head: str = OWN) -> Tensor:
        """[b, hidden_size] states of the first tokens to logits [b, 2] for (follows, does not)."""
        module = self.heads[head]
        if isinstance(module, PretrainingHead):
            module = module.next_sentence
        assert isinstance(module, NextSentenceHead), f"{head} knows nothing of next sentences"
        return module(first)

    def encode_padded(
        self, ids: Tensor, mask: Tensor, type_ids: Tensor | None = None, adapter: str | None = None
    ) -> Tensor:
        """[b, t] ids with a boolean mask of real tokens to hidden states [b, t, hidden_size]."""
        spans = ((adapter, 0, ids.numel()),) if adapter else ()
        context = PaddedContext(mask, causal=False, adapter_spans=spans)
        types = None if type_ids is None else type_ids.flatten()
        return self.encode(ids.flatten(), context, types).view(*ids.shape, -1)

    def decode_padded(
        self,
        ids: Tensor,
        mask: Tensor,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        adapter: str | None = None,
    ) -> Tensor:
        """[b, t] ids, and the encoder's [b, s, hidden_size] where there is one, to [b, t, hidden_size]."""
        flat_memory = None if memory is None else memory.flatten(0, 1)
        spans = ((adapter, 0, ids.numel()),) if adapter else ()
        memory_spans = ((adapter, 0, len(flat_memory)),) if adapter and flat_memory is not None else ()
        context = PaddedContext(mask, True, flat_memory, memory_mask, spans, memory_spans)
        return self.decode(ids.flatten(), context).view(*ids.shape, -1)

    @property
    def num_parameters(self) -> int:
        """Parameters, each counted once however often it is tied."""
        return sum(p.numel() for p in self.parameters())

    def _initialise(self) -> None:
        """Normal weights; T5 draws each kind of weight by its fan-in, since it does not scale its scores."""
        config = self.config
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                std = config.initializer_range
                if config.family == "t5":
                    std = module.in_features**-0.5
                    if name.endswith(".query"):
                        std *= config.head_dim**-0.5
                nn.init.normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding) and module.weight.requires_grad:
                std = config.initializer_range
                if config.family == "t5":
                    std = 1.0 if module is self.embeddings.words else config.hidden_size**-0.5
                nn.init.normal_(module.weight, std=std)
            elif isinstance(module, MaskedLMHead) and module.projection is not None:
                nn.init.normal_(module.projection, std=config.initializer_range)


def parameter_bytes(model: nn.Module) -> int:
    """Bytes that the parameters take."""
    return sum(p.numel() * p.element_size() for p in model.parameters())
