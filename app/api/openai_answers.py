"""What OpenAI's routes answer, for the OpenAPI description; a test holds them to it."""

from typing import Any, Literal

from pydantic import ConfigDict

from app.api.answers import FinishReason, Shape, TokenLogprob, Usage


class CachedTokens(Shape):
    """Under OpenAI's own name."""

    cached_tokens: int


class OpenAIUsage(Usage):
    """The counts, and what OpenAI's clients read of them."""

    prompt_tokens_details: CachedTokens


class LegacyLogprobs(Shape):
    """Parallel lists, a token each."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class Choice(Shape):
    """One text of a completion."""

    index: int
    text: str
    logprobs: LegacyLogprobs | None
    finish_reason: FinishReason
    prompt_logprobs: list[TokenLogprob | None] | None = None


class _Object(Shape):
    """What completions and chats share."""

    id: str
    created: int
    model: str
    system_fingerprint: str
    usage: OpenAIUsage


class CompletionAnswer(_Object):
    """Of /v1/completions."""

    object: Literal["text_completion"]
    choices: list[Choice]


class SpelledToken(Shape):
    """A token with the bytes that it stands for."""

    token: str
    logprob: float
    bytes: list[int]


class ChatToken(SpelledToken):
    """The token that came, and the likeliest in its place."""

    top_logprobs: list[SpelledToken]


class ChatLogprobs(Shape):
    """Of an answer's tokens."""

    content: list[ChatToken]
    refusal: None


class ChatMessage(Shape):
    """What the model says."""

    role: Literal["assistant"]
    content: str
    refusal: None


class ChatChoice(Shape):
    """One answer to a chat."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: FinishReason
    prompt_logprobs: list[TokenLogprob | None] | None = None


class ChatAnswer(_Object):
    """Of /v1/chat/completions."""

    object: Literal["chat.completion"]
    choices: list[ChatChoice]


class Embedding(Shape):
    """A vector, as numbers or in base64."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class EmbeddingsAnswer(Shape):
    """Of /v1/embeddings."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class ModelCard(Shape):
    """OpenAI's model object, and what we know beside it."""

    model_config = ConfigDict(extra="allow")

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    tasks: list[str]
    kind: str
    max_model_len: int | None = None
    base: str | None = None
    labels: list[str] | None = None
    languages: dict[str, Any] | None = None


class ModelList(Shape):
    """Of /v1/models."""

    object: Literal["list"]
    data: list[ModelCard]
