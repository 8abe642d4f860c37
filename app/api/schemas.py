"""The native requests. Strict: nothing is converted, unknown fields are refused, so that a typing slip is told."""

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainValidator,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from app.tasks.qa import DEFAULT_DOC_STRIDE, DEFAULT_MAX_ANSWER_TOKENS
from app.tasks.sampling import MAX_SEQUENCES

MAX_TEXTS = 2048


def check_text(value: Any) -> str:
    """A string of characters: no half of a surrogate pair."""
    if not isinstance(value, str):
        raise PydanticCustomError("string_type", "must be a string")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise PydanticCustomError(
            "string_unicode", "has a lone surrogate, which is not a character"
        ) from None
    return value


def _check_texts(value: Any) -> str | list[str]:
    """A text or a list of texts."""
    if isinstance(value, list):
        _check_count(value)
        return [check_text(item) for item in value]
    if not isinstance(value, str):
        raise PydanticCustomError("texts", "must be a string or a list of strings")
    return check_text(value)


def _check_count(value: list[Any]) -> None:
    if not 1 <= len(value) <= MAX_TEXTS:
        raise PydanticCustomError("texts", "must have between 1 and {most} entries", {"most": MAX_TEXTS})


def check_prompts(value: Any) -> list[str] | list[list[int]]:
    """OpenAI's prompt and input: a string, strings, token ids or lists of token ids; out comes a list."""
    if isinstance(value, str):
        return [check_text(value)]
    shapes = "must be a string, a list of strings, a list of token ids or a list of those"
    if not isinstance(value, list):
        raise PydanticCustomError("prompts", shapes)
    if _are_ids(value):
        return [value]
    _check_count(value)
    if isinstance(value[0], str):
        return [check_text(item) for item in value]
    if not all(isinstance(item, list) and _are_ids(item) for item in value):
        raise PydanticCustomError("prompts", shapes)
    return value


def _are_ids(value: list[Any]) -> bool:
    return bool(value) and all(type(item) is int and item >= 0 for item in value)


def _check_stop(value: list[str]) -> list[str]:
    if len(value) > 16 or any(not 0 < len(stop) <= 256 for stop in value):
        raise PydanticCustomError("stop", "must be at most 16 strings of 1 to 256 characters")
    return value


def _listed_stop(value: Any) -> Any:
    return _check_stop([check_text(v) for v in ([value] if isinstance(value, str) else _a_list(value))])


def _a_list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise PydanticCustomError("stop", "must be a string or a list of strings")
    return value


def _check_choice(value: Any) -> str:
    if not check_text(value):
        raise PydanticCustomError("choice", "must not be empty")
    return str(value)


def _or_list(item: dict[str, Any], most: int) -> dict[str, Any]:
    """The JSON Schema of one or of a list."""
    return {"anyOf": [item, {"type": "array", "items": item, "minItems": 1, "maxItems": most}]}


_TEXT_OR_TEXTS = _or_list({"type": "string"}, MAX_TEXTS)
_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
_STOP = _or_list({"type": "string", "minLength": 1, "maxLength": 256}, 16)

Text = Annotated[str, PlainValidator(check_text), WithJsonSchema({"type": "string"})]
Texts = Annotated[str | list[str], PlainValidator(_check_texts), WithJsonSchema(_TEXT_OR_TEXTS)]
Prompts = Annotated[
    list[str] | list[list[int]],
    PlainValidator(check_prompts),
    WithJsonSchema({"anyOf": [*_TEXT_OR_TEXTS["anyOf"], *_or_list(_IDS, MAX_TEXTS)["anyOf"]]}),
]
Stop = Annotated[list[str], PlainValidator(_listed_stop), WithJsonSchema(_STOP)]
Choice = Annotated[str, PlainValidator(_check_choice), WithJsonSchema({"type": "string", "minLength": 1})]
Finite = Annotated[float, Field(allow_inf_nan=False)]


def as_list(texts: str | list[str]) -> list[str]:
    """One text is a list of one."""
    return [texts] if isinstance(texts, str) else texts


class Body(BaseModel):
    """The base of all requests."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: Text | None = None
    timeout: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None

    @model_validator(mode="before")
    @classmethod
    def _take_whole_numbers(cls, fields: Any) -> Any:
        """5.0 is an integer in JSON, which knows only numbers."""
        if not isinstance(fields, dict):
            return fields
        return {
            name: int(value) if type(value) is float and value.is_integer() else value
            for name, value in fields.items()
        }


def nothing(what: str, *neutral: Any) -> Any:
    """A field that is known and not served yet: only null, and values that ask for nothing, pass."""

    def check(value: Any) -> None:
        if value is not None and not any(value == one and type(value) is type(one) for one in neutral):
            raise PydanticCustomError("not_served_yet", "{what} is not served yet", {"what": what})

    schema = {"enum": [None, *neutral], "description": "Not served yet."}
    return Annotated[Any, AfterValidator(check), Field(default=None), WithJsonSchema(schema)]


class GenerationParameters(Body):
    """One set for all routes that generate; what is left out comes from the checkpoint, then from our defaults."""

    max_tokens: Annotated[int, Field(ge=1)] | None = None
    min_tokens: Annotated[int, Field(ge=0)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    repetition_penalty: Finite | None = None
    no_repeat_ngram_size: Annotated[int, Field(ge=0, le=64)] | None = None
    presence_penalty: Finite | None = None
    frequency_penalty: Finite | None = None
    num_beams: Annotated[int, Field(ge=1, le=MAX_SEQUENCES)] | None = None
    length_penalty: Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)] | None = None
    early_stopping: bool | Literal["never"] | None = None
    seed: int | None = None
    n: Annotated[int, Field(ge=1, le=MAX_SEQUENCES)] | None = None
    best_of: Annotated[int, Field(ge=1, le=MAX_SEQUENCES)] | None = None
    stop: Stop | None = None
    stop_token_ids: list[Annotated[int, Field(ge=0)]] | None = None
    ignore_eos: bool | None = None
    logit_bias: dict[str, Finite] | None = None
    forced_bos_token: Annotated[int, Field(ge=0)] | Text | None = None
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    prompt_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    priority: Annotated[int, Field(ge=-10, le=10)] | None = None
    stream: bool | None = None
    json_schema: dict[str, Any] | None = None
    regex: Text | None = None
    choice: Annotated[list[Choice], Field(min_length=1)] | None = None
    grammar: Text | None = None

    def values(self) -> dict[str, Any]:
        """The generation parameters by name, None where left out."""
        return {name: getattr(self, name) for name in GenerationParameters.model_fields}


class GenerateBody(GenerationParameters):
    """POST /v1/generate."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"prompt": "Once upon a time", "max_tokens": 40, "temperature": 0.8}]}
    )
    prompt: Texts


class TranslateBody(GenerationParameters):
    """POST /v1/translate."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"text": "The house is small. We like it.", "target": "de"}]}
    )
    text: Texts
    target: Text
    source: Text | None = None
    split_sentences: bool | None = None


class SummarizeBody(GenerationParameters):
    """POST /v1/summarize."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "text": "The house by the river is old. It was built in 1843, and nobody has lived there since.",
                    "max_tokens": 30,
                }
            ]
        }
    )
    text: Texts
    truncate: bool | None = None


def _check_label(value: str) -> str:
    if not value.strip():
        raise PydanticCustomError("label", "must have text in it")
    return value


class ClassifyBody(Body):
    """POST /v1/classify; with `labels` the text is fitted to those instead of the model's own."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"text": "What a lovely day!", "model": "sentiment", "top_k": 2},
                {"text": "The bank raised its rates.", "labels": ["finance", "sports", "cooking"]},
            ]
        }
    )
    text: Texts
    multi_label: bool | None = None
    top_k: Annotated[int, Field(ge=1)] | None = None
    truncate: bool | None = None
    labels: (
        Annotated[
            list[Annotated[Text, AfterValidator(_check_label)]], Field(min_length=1, max_length=MAX_TEXTS)
        ]
        | None
    ) = None
    hypothesis_template: Text | None = None


class QuestionBody(BaseModel):
    """One question and the text that may answer it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    question: Text
    context: Text


class QABody(Body):
    """POST /v1/qa; either `question` and `context`, or `inputs`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "question": "Who designed the engine?",
                    "context": "The Analytical Engine was designed by Charles Babbage in 1837.",
                }
            ],
            "anyOf": [
                {
                    "required": ["question", "context"],
                    "properties": {
                        "question": {"type": "string"},
                        "context": {"type": "string"},
                        "inputs": {"type": "null"},
                    },
                },
                {
                    "required": ["inputs"],
                    "properties": {
                        "inputs": {"type": "array"},
                        "question": {"type": "null"},
                        "context": {"type": "null"},
                    },
                },
            ],
        }
    )
    question: Text | None = None
    context: Text | None = None
    inputs: Annotated[list[QuestionBody], Field(min_length=1, max_length=MAX_TEXTS)] | None = None
    top_k: Annotated[int, Field(ge=1, le=100)] = 1
    max_answer_tokens: Annotated[int, Field(ge=1, le=512)] = DEFAULT_MAX_ANSWER_TOKENS
    doc_stride: Annotated[int, Field(ge=0)] = DEFAULT_DOC_STRIDE
    allow_no_answer: bool = False


class FillMaskBody(Body):
    """POST /v1/fill-mask."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"text": "Paris is the [MASK] of France.", "top_k": 3}]}
    )
    text: Texts
    top_k: Annotated[int, Field(ge=1, le=1000)] = 5
