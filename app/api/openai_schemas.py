"""Requests in OpenAI's shape; `user` and its like are taken and ignored, as the contract says."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.api.schemas import Body, GenerationParameters, Prompts, Text, nothing


class _Ignored(BaseModel):
    """What official clients may send and no answer depends on."""

    model_config = ConfigDict(extra="forbid", strict=True)

    user: Text | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: Text | None = None
    parallel_tool_calls: bool | None = None


class StreamOptions(BaseModel):
    """`include_usage` asks for one more chunk with the counts."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None


class CompletionBody(GenerationParameters, _Ignored):
    """POST /v1/completions."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": "writer", "prompt": "The old house", "max_tokens": 24, "temperature": 0.8}]
        }
    )
    prompt: Prompts
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    echo: bool | None = None
    stream_options: StreamOptions | None = None
    suffix: nothing("suffix", "")  # type: ignore[valid-type]
    response_format: nothing("Constrained generation", {"type": "text"})  # type: ignore[valid-type]
    tools: nothing("Tool use", [])  # type: ignore[valid-type]


class EmbeddingsBody(Body, _Ignored):
    """POST /v1/embeddings."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "minilm", "input": ["one sentence", "another one"]}]}
    )
    input: Prompts
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    truncate: bool | None = None
