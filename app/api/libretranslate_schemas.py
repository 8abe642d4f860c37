"""What LibreTranslate's clients send: numbers may come as strings, and fields that we do not know are passed over."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from app.api.schemas import Text, Texts

MAX_ALTERNATIVES = 7
"""Beside the best: eight beams with eight texts are as many as a prompt may have."""


class _LibreTranslateBody(BaseModel):
    """The base of both; `api_key` is read by the gate."""

    model_config = ConfigDict(extra="ignore")

    api_key: Text | None = None


class TranslateTextBody(_LibreTranslateBody):
    """POST /translate; `model` is an extension."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [{"q": "The house is small. We like it.", "source": "en", "target": "de"}]
        }
    )
    q: Texts
    source: Text
    target: Text
    format: Literal["text", "html"] | None = None
    alternatives: Annotated[int, Field(ge=0, le=MAX_ALTERNATIVES)] | None = None
    model: Text | None = None


class DetectBody(_LibreTranslateBody):
    """POST /detect."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"q": "Where is the station?"}]})
    q: Text
