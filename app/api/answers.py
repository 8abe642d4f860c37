"""What the native routes answer, for the OpenAPI description; they write it themselves, and a test holds them to it."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

FinishReason = Literal["stop", "length"]


class Shape(BaseModel):
    """The base of all answers: nothing else is in them. What has a default may be left out."""

    model_config = ConfigDict(extra="forbid")


class Usage(Shape):
    """Tokens; `cached_tokens` of the prompt's were not computed anew."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    cached_tokens: int


class Answer(Shape):
    """What all native answers have."""

    model: str
    usage: Usage


class Likely(Shape):
    """A token that might have come."""

    token: str
    id: int
    logprob: float


class TokenLogprob(Likely):
    """The token that came, and the likeliest in its place."""

    top: list[Likely]


class GeneratedText(Shape):
    """One text."""

    text: str
    finish_reason: FinishReason
    logprobs: list[TokenLogprob] | None = None
    prompt_logprobs: list[TokenLogprob | None] | None = None


class GenerateAnswer(Answer):
    """Of /v1/generate."""

    results: list[GeneratedText]


class Alternative(Shape):
    """One way to translate a text."""

    text: str
    score: float


class DetectedLanguage(Shape):
    """The language of a text, and how probable that is."""

    language: str
    confidence: float


class Translation(Alternative):
    """The best of them; `detected` where the source was `auto`."""

    alternatives: list[Alternative] | None = None
    detected: DetectedLanguage | None = None


class TranslateAnswer(Answer):
    """Of /v1/translate."""

    translations: list[Translation]


class SummaryText(Shape):
    """One summary."""

    text: str


class Summary(SummaryText):
    """The best of them."""

    alternatives: list[SummaryText] | None = None


class SummarizeAnswer(Answer):
    """Of /v1/summarize."""

    summaries: list[Summary]


class LabelScore(Shape):
    """A label and its probability."""

    label: str
    score: float


class ClassifyAnswer(Answer):
    """Of /v1/classify; `method` where the labels were the request's."""

    results: list[list[LabelScore]]
    method: str | None = None


class FoundAnswer(Shape):
    """An answer and where it stands in its context."""

    answer: str
    score: float
    start: int | None
    end: int | None


class QAAnswer(Answer):
    """Of /v1/qa."""

    answers: list[list[FoundAnswer]]


class Filled(Shape):
    """A token for the mask, and the text with it in place."""

    token: str
    score: float
    text: str


class FillMaskAnswer(Answer):
    """Of /v1/fill-mask."""

    results: list[list[Filled]]


class FoundEntity(Shape):
    """A name in a text."""

    entity: str
    score: float
    text: str
    start: int
    end: int


class NerAnswer(Answer):
    """Of /v1/ner."""

    entities: list[list[FoundEntity]]


class RankedDocument(Shape):
    """Text of a document."""

    text: str


class Ranked(Shape):
    """A document's place in the request, and how well it answers the query."""

    index: int
    relevance_score: float
    document: RankedDocument | None = None


class RerankAnswer(Answer):
    """Of /v1/rerank."""

    results: list[Ranked]


class TokenizeAnswer(Answer):
    """Of /v1/tokenize; lists for a list of texts."""

    tokens: list[int] | list[list[int]]
    count: int | list[int]
    token_strs: list[str] | list[list[str]] | None = None


class DetokenizeAnswer(Answer):
    """Of /v1/detokenize."""

    text: str | list[str]


class Reasons(Shape):
    """Of /ready."""

    status: Literal["ready", "not ready"]
    reasons: list[str]


class Health(Shape):
    """Of /health."""

    status: Literal["ok"]


def told(shape: type[BaseModel], *, streams: bool = False) -> dict[int | str, dict[str, Any]]:
    """A route's `responses`: an answer of this shape, or server-sent events of pieces of it."""
    response: dict[str, Any] = {"model": shape, "description": "The answer"}
    if streams:
        response["description"] += "; with `stream`, events of its pieces"
        response["content"] = {"text/event-stream": {}}
    return {200: response}
