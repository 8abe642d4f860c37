"""Requests in OpenAI's shape; `user` and its like are taken and ignored, as the contract says."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from app.api.schemas import Body, GenerationParameters, Prompts, Text, nothing


class _Ignored(BaseModel):
    """What official clients may send and no answer depends on."""

    model_config = ConfigDict(extra="forbid", strict=True)

    user: Text | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: Text | None = None
    parallel_tool_calls: bool | None = None
    safety_identifier: Text | None = None
    prompt_cache_key: Text | None = None


class StreamOptions(BaseModel):
    """`include_usage` asks for one more chunk with the counts."""

    model_config = ConfigDict(extra="forbid", strict=True)

    include_usage: bool | None = None
    include_obfuscation: nothing("Obfuscation", False)  # type: ignore[valid-type]


class NamedSchema(BaseModel):
    """A JSON schema with what else OpenAI's clients send about it; it is always kept strictly."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: Text | None = None
    description: Text | None = None
    json_schema: Annotated[dict[str, Any], Field(alias="schema")]
    strict: bool | None = None


class ResponseFormat(BaseModel):
    """What a text must be; `value` is what Hugging Face's clients call a schema."""

    model_config = ConfigDict(extra="forbid", strict=True)

    type: Literal["text", "json_object", "json_schema"]
    json_schema: NamedSchema | None = None
    value: dict[str, Any] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.json_schema is not None) != (self.type == "json_schema"):
            raise PydanticCustomError("response_format", "json_schema and the type json_schema go together")
        if self.value is not None and self.type != "json_object":
            raise PydanticCustomError("response_format", "a value goes with the type json_object")
        return self

    def wanted(self) -> dict[str, Any] | None:
        """The schema that the text must fit; None for any text."""
        if self.type == "text":
            return None
        if self.json_schema is not None:
            return self.json_schema.json_schema
        return {"type": "object"} if self.value is None else self.value


class OpenAIParameters(GenerationParameters, _Ignored):
    """What completions and chats have in common."""

    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    stream_options: StreamOptions | None = None
    response_format: ResponseFormat | None = None
    tools: nothing("Tool use", [])  # type: ignore[valid-type]

    def values(self) -> dict[str, Any]:
        """The generation parameters by name, None where left out; a response format is its schema."""
        schema = None if self.response_format is None else self.response_format.wanted()
        limit = self.max_tokens or self.max_completion_tokens
        return super().values() | {"response_format": schema, "max_tokens": limit}

    @property
    def wants_usage(self) -> bool:
        """Whether a stream ends with the counts."""
        return self.stream_options is not None and self.stream_options.include_usage is True


class CompletionBody(OpenAIParameters):
    """POST /v1/completions."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"model": "writer", "prompt": "The old house", "max_tokens": 24, "temperature": 0.8}]
        }
    )
    prompt: Prompts
    echo: bool | None = None
    suffix: nothing("suffix", "")  # type: ignore[valid-type]


class EmbeddingsBody(Body, _Ignored):
    """POST /v1/embeddings."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "minilm", "input": ["one sentence", "another one"]}]}
    )
    input: Prompts
    encoding_format: Literal["float", "base64"] | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    truncate: bool | None = None
