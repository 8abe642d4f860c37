"""What stands on top of an encoder: a class for the sequence or each token, a span, a masked token."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from model.config import Head, TransformerConfig
from model.layers.activations import find_activation
from model.layers.linear import Linear
from model.layers.norms import build_norm
from model.layers.packed import ONEDNN, Packing, ServedWeight, without_numbers


class Pooler(nn.Module):
    """The summary of a sequence: a dense layer and an activation over the first token."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.activation = find_activation(config.pooler_activation)
        self.dense = Linear(config.hidden_size, config.hidden_size)

    def forward(self, first: Tensor) -> Tensor:
        """[b, hidden_size] hidden states of the first tokens to the same shape."""
        return self.activation(self.dense(first))


class HeadTransform(nn.Module):
    """Dense layer, activation and norm, under whatever stands on top."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size, config.head_bias)
        self.activation = find_activation(config.activation)
        self.norm = build_norm(config)

    def forward(self, hidden: Tensor) -> Tensor:
        """[..., hidden_size] to the same."""
        return self.norm(self.activation(self.dense(hidden)))


class SequenceClassHead(nn.Module):
    """One row of label logits a sequence, from its first token or the mean of all."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.pooling = config.classifier_pooling
        self.pooler = HeadTransform(config) if config.head_transform else Pooler(config)
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = Linear(config.hidden_size, len(config.labels))

    def forward(self, first: Tensor) -> Tensor:
        """[b, hidden_size] to [b, num_labels]."""
        return self.classifier(self.dropout(self.pooler(first)))


class NextSentenceHead(nn.Module):
    """Does the second sentence follow the first? Logits for (it follows, it does not)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.pooler = Pooler(config)
        self.classifier = Linear(config.hidden_size, 2)

    def forward(self, first: Tensor) -> Tensor:
        """[b, hidden_size] to [b, 2]."""
        return self.classifier(self.pooler(first))


class TokenClassHead(nn.Module):
    """One row of label logits a token."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.transform = HeadTransform(config) if config.head_transform else nn.Identity()
        self.dropout = nn.Dropout(config.dropout)
        self.classifier = Linear(config.hidden_size, len(config.labels))

    def forward(self, hidden: Tensor) -> Tensor:
        """[num_tokens, hidden_size] to [num_tokens, num_labels]."""
        return self.classifier(self.dropout(self.transform(hidden)))


class SpanHead(nn.Module):
    """How well an answer starts, and ends, at each token."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.transform = HeadTransform(config) if config.head_transform else nn.Identity()
        self.classifier = Linear(config.hidden_size, 2)

    def forward(self, hidden: Tensor) -> Tensor:
        """[num_tokens, hidden_size] to [num_tokens, 2]."""
        return self.classifier(self.transform(hidden))


class MaskedLMHead(nn.Module):
    """Vocabulary logits for masked tokens: dense, activation, norm, and the embedding table turned round.

    Without a projection of its own the caller scores words, by the input table that it is tied to.
    """

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.dense = Linear(config.hidden_size, config.hidden_size, config.head_bias)
        self.activation = find_activation(config.activation)
        self.norm = build_norm(config)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))
        self.projection: nn.Parameter | None = None
        if not config.tie_embeddings:
            self.projection = nn.Parameter(torch.empty(config.vocab_size, config.hidden_size))
        self._packed: ServedWeight | None = None

    def forward(self, hidden: Tensor, score_words: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """[n, hidden_size] to [n, vocab_size]; `score_words` takes [n, hidden_size] and a bias [vocab_size]."""
        x = self.norm(self.activation(self.dense(hidden)))
        if self._packed is not None:
            return self._packed(x, self.bias)
        if self.projection is not None:
            return nn.functional.linear(x, self.projection, self.bias)
        return score_words(x, self.bias)

    def pack(self, packing: Packing = ONEDNN) -> list[ServedWeight]:
        """See `Linear.pack`; of the projection alone."""
        if self.projection is None or not packing.takes(self.projection):
            return []
        self._packed = packing.pack(self.projection)
        self.projection = without_numbers(self.projection)
        return [self._packed]


class PretrainingHead(nn.Module):
    """Masked LM and next sentence prediction together (Devlin et al. 2019, arXiv:1810.04805)."""

    def __init__(self, config: TransformerConfig) -> None:
        super().__init__()
        self.masked_lm = MaskedLMHead(config)
        self.next_sentence = NextSentenceHead(config)


HEADS: Mapping[Head, Callable[[TransformerConfig], nn.Module]] = {
    "masked-lm": MaskedLMHead,
    "pretraining": PretrainingHead,
    "next-sentence": NextSentenceHead,
    "sequence-class": SequenceClassHead,
    "token-class": TokenClassHead,
    "span": SpanHead,
}
"""The heads of encoders. A decoder's LM head is a projection that `Transformer` holds itself."""


def fresh_head(config: TransformerConfig) -> nn.Module:
    """The head of `config` with random weights."""
    head = HEADS[config.head](config)
    for module in head.modules():
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=config.initializer_range)
            if module.bias is not None:
                nn.init.zeros_(module.bias)
    return head


def scores_words(head: nn.Module) -> bool:
    """Whether it scores words by the model's table."""
    return any(isinstance(part, MaskedLMHead) and part.projection is None for part in head.modules())


def pack_head(head: nn.Module, packing: Packing = ONEDNN) -> list[ServedWeight]:
    """See `Linear.pack`."""
    parts = [part for part in head.modules() if isinstance(part, Linear | MaskedLMHead)]
    return [packed for part in parts for packed in part.pack(packing)]
