"""The requests of the routes for entities, reranking and token ids."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from app.api.schemas import MAX_TEXTS, Body, Text, Texts
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


class DocumentBody(BaseModel):
    """A document, as some clients wrap it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: Text


class RerankBody(Body):
    """POST /v1/rerank, with the fields of Cohere's and Jina's."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "query": "How do I change my PIN?",
                    "documents": ["Cash machines let you choose a new PIN.", "Transfers take a day."],
                    "top_n": 1,
                }
            ]
        }
    )
    query: Text
    documents: Annotated[list[Text | DocumentBody], Field(min_length=1, max_length=MAX_TEXTS)]
    top_n: Annotated[int, Field(ge=1)] | None = None
    return_documents: bool | None = None
    truncate: bool | None = None

    def texts(self) -> list[str]:
        """The documents' texts."""
        return [one if isinstance(one, str) else one.text for one in self.documents]


class TokenizeBody(Body):
    """POST /v1/tokenize."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"text": "Hello, world!"}]})
    text: Texts
    add_special_tokens: bool | None = None
    return_token_strs: bool | None = None


class DetokenizeBody(Body):
    """POST /v1/detokenize."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"tokens": [101, 102, 103]}]})
    tokens: TokenIds
    skip_special_tokens: bool | None = None

    def rows(self) -> list[list[int]]:
        """The lists; ids that stand alone are one."""
        lists = [row for row in self.tokens if isinstance(row, list)]
        return lists or [[one for one in self.tokens if isinstance(one, int)]]

    def is_one(self) -> bool:
        """Whether the ids stand alone."""
        return not any(isinstance(row, list) for row in self.tokens)
