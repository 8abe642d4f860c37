"""The requests of the routes for entities, reranking and token ids."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from app.api.schemas import MAX_TEXTS, Body, Text, Texts, check_text
from app.tasks.entities import Aggregation

_IDS = {"type": "array", "items": {"type": "integer", "minimum": 0}}


def _check_ids(value: Any) -> list[int] | list[list[int]]:
    """Token ids, or lists of them."""
    if isinstance(value, list) and all(type(one) is int and one >= 0 for one in value):
        return value
    if not isinstance(value, list) or not all(isinstance(row, list) for row in value):
        raise PydanticCustomError("token_ids", "must be a list of token ids or a list of such lists")
    if len(value) > MAX_TEXTS:
        raise PydanticCustomError("token_ids", "must have at most {most} lists", {"most": MAX_TEXTS})
    if not all(type(one) is int and one >= 0 for row in value for one in row):
        raise PydanticCustomError("token_ids", "must hold whole numbers from 0")
    return value


def _check_document(value: Any) -> str:
    """A text, or, as some clients wrap it, an object with nothing else in it."""
    text = value["text"] if isinstance(value, dict) and value.keys() == {"text"} else value
    if not isinstance(text, str):
        raise PydanticCustomError("document", 'must be a string or {"text": string}')
    return check_text(text)


_DOCUMENT = {
    "anyOf": [
        {"type": "string"},
        {
            "type": "object",
            "properties": {"text": {"type": "string"}},
            "required": ["text"],
            "additionalProperties": False,
        },
    ]
}
Document = Annotated[str, PlainValidator(_check_document), WithJsonSchema(_DOCUMENT)]
TokenIds = Annotated[
    list[int] | list[list[int]],
    PlainValidator(_check_ids),
    WithJsonSchema({"anyOf": [_IDS, {"type": "array", "items": _IDS, "maxItems": MAX_TEXTS}]}),
]


class NerBody(Body):
    """POST /v1/ner."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"text": "Ada Lovelace lived in London.", "aggregation": "simple"}]}
    )
    text: Texts
    aggregation: Aggregation = "simple"
    ignore_labels: Annotated[list[Text], Field(max_length=MAX_TEXTS)] | None = None
    stride: Annotated[int, Field(ge=0)] | None = None


class RerankBody(Body):
    """POST /v1/rerank, with the fields of Cohere's and Jina's."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "query": "How do I change my PIN?",
                    "documents": ["Any cash machine changes it.", "Transfers take a day."],
                    "top_n": 1,
                }
            ]
        }
    )
    query: Text
    documents: Annotated[list[Document], Field(min_length=1, max_length=MAX_TEXTS)]
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool | None = None
    truncate: bool | None = None


class TokenizeBody(Body):
    """POST /v1/tokenize."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "Hello, world!"}]})
    text: Texts
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeBody(Body):
    """POST /v1/detokenize."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"tokens": [7592, 1010, 2088, 999]}]})
    tokens: TokenIds
    skip_special_tokens: bool | None = None

    def rows(self) -> list[list[int]]:
        """The lists; ids that stand alone are one."""
        lists = [row for row in self.tokens if isinstance(row, list)]
        return lists or [[one for one in self.tokens if isinstance(one, int)]]

    def is_one(self) -> bool:
        """Whether the ids stand alone."""
        return not any(isinstance(row, list) for row in self.tokens)
