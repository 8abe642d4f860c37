"""The one Transformer: encoder, decoder or both over one embedding table, and heads on top."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from model.blocks import Stack, Wanted
from model.config import TransformerConfig
from model.fused import fuse
from model.heads import (
    HEADS,
    MaskedLMHead,
    NextSentenceHead,
    PretrainingHead,
    SequenceClassHead,
    SpanHead,
    TokenClassHead,
    pack_head,
    scores_words,
)
from model.layers.attention import CrossAttention, SelfAttention
from model.layers.bfloat16 import serving
from model.layers.context import AttentionContext, PaddedContext
from model.layers.embeddings import Embeddings
from model.layers.linear import AdapterSpans, Linear
from model.layers.mlp import FeedForward
from model.layers.packed import Packing, ServedWeight
from model.layers.quantized import Quantization, QuantizedWeight, quantizing

OWN = "own"
"""The name of the head that came with the checkpoint; adapters add heads under their names."""


class Transformer(nn.Module):
    """Built from its config with random weights; `model.loading` fills in published ones."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.config = config
        self.embeddings = Embeddings(config)
        self.decoder_embeddings: Embeddings | None = None
        if config.kind == "encoder-decoder" and (config.position == "learned" or config.embedding_norm):
            # BART's stacks share their words only: each has positions and a norm of its own.
            self.decoder_embeddings = Embeddings(config, self.embeddings.words)
        self.encoder = Stack(config, is_decoder=False) if config.kind != "decoder" else None
        self.decoder = Stack(config, is_decoder=True) if config.kind != "encoder" else None
        self.lm_head: Linear | None = None
        if self.decoder is not None and not config.tie_embeddings:
            self.lm_head = Linear(config.hidden_size, config.vocab_size, bias=False)
        self.packed_words: ServedWeight | None = None
        """The input table once more, for scoring words."""
        self.packed: list[ServedWeight] = []
        """All that `pack` laid out, and what `quantize` made."""
        self.words_packing: Packing = serving()
        """What scores words by the input table is made so."""
        self.logit_bias: nn.Parameter | None = None
        if config.logit_bias:
            self.logit_bias = nn.Parameter(torch.zeros(1, config.vocab_size))
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

    def decode(self, ids: Tensor, context: AttentionContext, wanted: Wanted | None = None) -> Tensor:
        """[num_tokens] flat ids to hidden states [num_tokens, hidden_size], see `logits`; or of `wanted` rows only."""
        if self.decoder is None:
            raise ValueError(f"a {self.config.kind} has nothing to decode with")
        embeddings = self.embeddings if self.decoder_embeddings is None else self.decoder_embeddings
        hidden: Tensor = self.decoder(embeddings(ids, context.positions), context, wanted)
        return hidden

    def logits(self, hidden: Tensor, adapter_spans: AdapterSpans = ()) -> Tensor:
        """[..., hidden_size] decoder states to next-token logits [..., vocab_size].

        With `adapter_spans` the states are flat rows, [n, hidden_size].
        """
        hidden = self._scaled(hidden)
        if self.lm_head is not None:
            logits = self.lm_head(hidden, adapter_spans)
            return logits if self.logit_bias is None else logits + self.logit_bias
        return self._score_words(hidden, None if self.logit_bias is None else self.logit_bias[0])

    def largest_words(self, hidden: Tensor, adapter_spans: AdapterSpans = ()) -> Tensor | None:
        """[n, hidden_size] decoder states to the first largest of each row's `logits`, [n] int64, without making these;
        None where that cannot be done, or adapters have a part in them."""
        weight, bias = self.packed_words, None if self.logit_bias is None else self.logit_bias[0]
        if self.lm_head is not None:
            product = self.lm_head.product
            if product is None or bias is not None:
                return None
            weight, bias = product.weight, product.bias
        if adapter_spans or not isinstance(weight, QuantizedWeight):
            return None
        return weight.argmax(self._scaled(hidden), bias)

    def takes_mean(self, head: str = OWN) -> bool:
        """Does `classify` take the mean of a sequence's states instead of its first token's?"""
        module = self.heads[head]
        return isinstance(module, SequenceClassHead) and module.pooling == "mean"

    def pool(self, hidden: Tensor, mask: Tensor, head: str = OWN) -> Tensor:
        """[b, t, hidden_size] states and the mask of real ones to what `classify` takes."""
        if not self.takes_mean(head):
            return hidden[:, 0]
        real = mask.to(hidden.dtype)
        return (hidden * real[:, :, None]).sum(1) / real.sum(1, keepdim=True)

    def classify(self, first: Tensor, head: str = OWN) -> Tensor:
        """[b, hidden_size] states of the first tokens, or what `pool` gives (of an encoder-decoder:
        `echo_padded`), to label logits [b, num_labels]."""
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
        return module(hidden, self._score_words)

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

    def pack(self) -> None:
        """Lays all weights of products out for serving on a CPU, see `serving`; there is no way back.

        The input table is still looked up as it was, so a tied one is held twice. Changes nothing on other
        devices, for dtypes that oneDNN does not pack, or of what is quantized. Adapters that come later are packed
        as they are read.
        """
        packing = serving()
        self._pack_stacks(packing, self.words_packing)
        for head in self.heads.values():
            self.packed += pack_head(head, packing)
        if self.decoder is not None:
            self.decoder.fused = fuse(self.decoder, self.config, self.dtype)

    def quantize(self, quantization: Quantization, dtype: torch.dtype) -> None:
        """Makes the weights of the stacks' products, and those that score words, codes of few bits for rows of
        `dtype`, for serving; there is no way back. 4 bits are for a CPU.

        These may be of any dtype before, as may the input table, which stays what it is and is looked up in `dtype`.
        Heads other than over the vocabulary are small, and stay as they are. 4 bits are for the stacks alone: words
        are scored in 8, and their scores are float32.
        """
        is_fp8 = quantization == "fp8"
        self.words_packing = quantizing("fp8", dtype) if is_fp8 else quantizing("int8", torch.float32)
        self._pack_stacks(quantizing(quantization, dtype), self.words_packing)
        for head in self.heads.modules():
            if isinstance(head, MaskedLMHead):
                self.packed += head.pack(self.words_packing)
        self.embeddings.dtype = dtype
        if self.decoder_embeddings is not None:
            self.decoder_embeddings.dtype = dtype

    @property
    def dtype(self) -> torch.dtype:
        """Of hidden states, keys and values."""
        return self.embeddings.dtype or self.embeddings.words.weight.dtype

    def echo_padded(self, ids: Tensor, mask: Tensor) -> Tensor:
        """[b, t] ids, padded on the right, to [b, hidden_size]: what an encoder-decoder classifies by.

        Its decoder reads the text that its encoder read, one place later, and what it has come to at the
        last end token sums the text up (Lewis et al. 2019, arXiv:1910.13461, section 3.1).
        """
        memory = self.encode_padded(ids, mask)
        start = torch.full_like(ids[:, :1], self.config.decoder_start_token_id or 0)
        hidden = self.decode_padded(torch.cat((start, ids[:, :-1]), dim=1), mask, memory, mask)
        ends = torch.isin(ids, torch.tensor(self.config.eos_token_ids, device=ids.device)) & mask
        places = torch.arange(1, ids.shape[1] + 1, device=ids.device)
        return hidden[torch.arange(len(ids), device=ids.device), (ends * places).argmax(dim=1)]

    @property
    def num_parameters(self) -> int:
        """Parameters, each counted once however often it is tied."""
        return sum(p.numel() for p in self.parameters())

    def _pack_stacks(self, packing: Packing, words_packing: Packing) -> None:
        """The stacks' products and what scores words, where they are not packed yet."""
        for module in self.modules():
            if isinstance(module, SelfAttention | CrossAttention | FeedForward):
                self.packed += module.pack(packing)
        if self.lm_head is not None:
            self.packed += self.lm_head.pack(words_packing)
        is_scored = self.decoder is not None and self.lm_head is None
        if is_scored or any(scores_words(head) for head in self.heads.values()):
            words = self.embeddings.words.weight
            if self.packed_words is None and words_packing.takes(words):
                self.packed_words = words_packing.pack(words)
                self.packed.append(self.packed_words)

    def _scaled(self, hidden: Tensor) -> Tensor:
        """What words are scored by."""
        return hidden if self.config.logit_scale == 1.0 else hidden * self.config.logit_scale

    def _score_words(self, hidden: Tensor, bias: Tensor | None) -> Tensor:
        """[..., hidden_size] against the input table: [..., vocab_size]."""
        if self.packed_words is not None:
            return self.packed_words(hidden, bias)
        return functional.linear(hidden, self.embeddings.words.weight, bias)

    def _initialise(self) -> None:
        """Normal weights; T5 draws each kind of weight by its fan-in, since it does not scale its scores."""
        config = self.config
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear):
                std = config.initializer_range
                if config.family in ("t5", "mt5"):
                    std = module.in_features**-0.5
                    if name.endswith(".query"):
                        std *= config.head_dim**-0.5
                nn.init.normal_(module.weight, std=std)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Embedding) and module.weight.requires_grad:
                std = config.initializer_range
                if config.family in ("t5", "mt5"):
                    std = 1.0 if module is self.embeddings.words else config.hidden_size**-0.5
                nn.init.normal_(module.weight, std=std)
            elif isinstance(module, MaskedLMHead) and module.projection is not None:
                nn.init.normal_(module.projection, std=config.initializer_range)


def weight_bytes(model: Transformer) -> int:
    """Bytes that its weights take: of an input table that scores words too, both forms."""
    return sum(p.nbytes for p in model.parameters() if not p.is_meta) + sum(
        one.nbytes for one in model.packed
    )
