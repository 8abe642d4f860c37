"""Chats in OpenAI's shape: messages, and what official clients send beside them."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from app.api.openai_schemas import OpenAIParameters
from app.api.schemas import Text, check_text, nothing

ROLES = ("system", "developer", "user", "assistant")
_NOT_SERVED = "not_served_yet"


def _check_role(value: Any) -> str:
    if value in ("tool", "function"):
        raise PydanticCustomError(_NOT_SERVED, "tool use is not served yet")
    if value not in ROLES:
        raise PydanticCustomError("role", "must be one of {roles}", {"roles": ", ".join(ROLES)})
    return str(value)


def _check_content(value: Any) -> str:
    """A text, or text parts, which become lines."""
    if not isinstance(value, list):
        return check_text(value)
    if not value:
        raise PydanticCustomError("content", "must have at least one part")
    return "\n".join(_check_part(part) for part in value)


def _check_part(part: Any) -> str:
    if not isinstance(part, dict) or not isinstance(part.get("type"), str):
        raise PydanticCustomError("content", "must be a string or a list of parts {type, text}")
    if part["type"] != "text":
        what = part["type"][:40].encode("ascii", "replace").decode()
        raise PydanticCustomError(_NOT_SERVED, "parts of type {what} are not served", {"what": what})
    if part.keys() != {"type", "text"}:
        raise PydanticCustomError("content", "a part of type text has a text and nothing else")
    return check_text(part["text"])


def _check_variables(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise PydanticCustomError("dict_type", "must be an object")
    _check_texts_in(value)
    return value


def _check_texts_in(value: Any) -> None:
    """All strings of a JSON value are text."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, dict):
            waiting += [*one.keys(), *one.values()]
        elif isinstance(one, list):
            waiting += one
        elif isinstance(one, str):
            check_text(one)


_PART = {
    "type": "object",
    "required": ["type", "text"],
    "properties": {"type": {"const": "text"}, "text": {"type": "string"}},
    "additionalProperties": False,
}
Role = Annotated[str, PlainValidator(_check_role), WithJsonSchema({"type": "string", "enum": [*ROLES]})]
Content = Annotated[
    str,
    PlainValidator(_check_content),
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": _PART, "minItems": 1}]}),
]
Variables = Annotated[dict[str, Any], PlainValidator(_check_variables), WithJsonSchema({"type": "object"})]


class Message(BaseModel):
    """One message; an answer of ours, sent back as it is, is one too."""

    model_config = ConfigDict(extra="forbid", strict=True)

    role: Role
    content: Content
    name: Text | None = None
    reasoning_content: Text | None = None
    reasoning: Text | None = None
    thinking: Text | None = None
    refusal: nothing("A refusal")  # type: ignore[valid-type]
    annotations: nothing("An annotation", [])  # type: ignore[valid-type]
    audio: nothing("Audio")  # type: ignore[valid-type]
    tool_calls: nothing("Tool use", [])  # type: ignore[valid-type]
    tool_call_id: nothing("Tool use")  # type: ignore[valid-type]
    function_call: nothing("Tool use")  # type: ignore[valid-type]

    def texts(self) -> dict[str, str]:
        """What it says, by field."""
        fields: dict[str, Any] = self.model_dump(exclude_none=True)
        return {name: value for name, value in fields.items() if isinstance(value, str)}


class ChatBody(OpenAIParameters):
    """POST /v1/chat/completions; `logprobs` is a switch here, and `top_logprobs` says how many."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 40}]
        }
    )
    messages: Annotated[list[Message], Field(min_length=1)]
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    chat_template_kwargs: Variables | None = None
    tool_choice: nothing("Tool use", "none", "auto")  # type: ignore[valid-type]
    tool_prompt: nothing("Tool use", "")  # type: ignore[valid-type]
    functions: nothing("Tool use", [])  # type: ignore[valid-type]
    function_call: nothing("Tool use", "none", "auto")  # type: ignore[valid-type]
    modalities: nothing("Audio", ["text"])  # type: ignore[valid-type]
    audio: nothing("Audio")  # type: ignore[valid-type]

    def values(self) -> dict[str, Any]:
        """As for completions; `logprobs` is the number of tokens told in each place."""
        return super().values() | {"logprobs": (self.top_logprobs or 0) if self.logprobs else None}

    def chat(self) -> list[dict[str, str]]:
        """The messages as templates read them."""
        return [message.texts() for message in self.messages]
