"""How Hugging Face's clients say what is to be generated: in text-generation-inference's names, or `transformers`'s.

Both become ours by `values()`. What cannot be kept passes only where it asks for nothing.
"""

import json
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from app.api.schemas import Finite, Stop, Text, nothing
from app.tasks.sampling import MAX_SEQUENCES

Temperature = Annotated[float, Field(ge=0, le=2, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)]


class Part(BaseModel):
    """A request or an object in it. Strict as ours; a null counts as left out."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="before")
    @classmethod
    def _leave_nulls_out(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {name: v for name, v in data.items() if v is not None or name not in cls.model_fields}


class Drawing(Part):
    """What both have: whether tokens are drawn, and among which."""

    max_new_tokens: Annotated[int, Field(ge=1)] | None = None
    do_sample: bool | None = None
    temperature: Temperature | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    top_p: Share | None = None
    typical_p: nothing("Typical decoding", 1, 1.0) = None  # type: ignore[valid-type]
    repetition_penalty: Finite | None = None
    seed: int | None = None

    def values(self) -> dict[str, Any]:
        """The same by our names, None where left out."""
        return {
            "max_tokens": self.max_new_tokens,
            "temperature": self._temperature(),
            "top_k": self.top_k,
            "top_p": self.top_p,
            "repetition_penalty": self.repetition_penalty,
            "seed": self.seed,
        }

    @property
    def default_temperature(self) -> float:
        """Where neither the request nor the checkpoint names one."""
        return 1.0 if self.do_sample else 0.0

    def _temperature(self) -> float | None:
        """Who narrows what is drawn wants a draw, unless `do_sample` says no; else the checkpoint decides."""
        if self.do_sample is False:
            return 0.0
        narrows = self.top_k not in (None, 0) or self.top_p not in (None, 1)
        return 1.0 if self.temperature is None and narrows else self.temperature


class Grammar(Part):
    """What the text must be: `json` and `json_schema` have a schema as `value`, `regex` a regular expression."""

    type: Literal["json", "json_schema", "regex"]
    value: dict[str, Any] | Text

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.type == "regex" and not isinstance(self.value, str):
            raise PydanticCustomError("grammar", "the value of a regex must be a string")
        if self.type != "regex":
            self._schema()
        return self

    def values(self) -> dict[str, Any]:
        """As our constraints."""
        return {"regex": self.value} if self.type == "regex" else {"json_schema": self._schema()}

    def _schema(self) -> dict[str, Any]:
        """May come as a string; `json_schema` has it under `schema`, beside a name, as OpenAI does."""
        value: Any = self.value
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                value = None
        if self.type == "json_schema" and isinstance(value, dict) and isinstance(value.get("schema"), dict):
            value = value["schema"]
        if not isinstance(value, dict):
            raise PydanticCustomError("grammar", "the value must be a JSON schema")
        return value


class TextGenerationParameters(Drawing):
    """text-generation-inference's."""

    frequency_penalty: Finite | None = None
    stop: Stop | None = None
    truncate: Annotated[int, Field(ge=1)] | None = None
    return_full_text: bool | None = None
    details: bool | None = None
    decoder_input_details: bool | None = None
    best_of: Annotated[int, Field(ge=1, le=MAX_SEQUENCES)] | None = None
    top_n_tokens: Annotated[int, Field(ge=0, le=20)] | None = None
    adapter_id: Text | None = None
    grammar: Grammar | None = None
    watermark: nothing("Watermarking", False) = None  # type: ignore[valid-type]

    def values(self) -> dict[str, Any]:
        """The same by our names, None where left out."""
        grammar = {} if self.grammar is None else self.grammar.values()
        return (
            super().values()
            | grammar
            | {
                "frequency_penalty": self.frequency_penalty,
                "stop": self.stop,
                "best_of": self.best_of,
            }
        )


class GenerateParameters(Drawing):
    """Those of `generate` in `transformers` that a text-to-text model takes; lengths are the answer's, in tokens, and
    `max_length` and `min_length` count its start token."""

    min_new_tokens: Annotated[int, Field(ge=0)] | None = None
    max_length: Annotated[int, Field(ge=2)] | None = None
    min_length: Annotated[int, Field(ge=0)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    no_repeat_ngram_size: Annotated[int, Field(ge=0, le=64)] | None = None
    num_beams: Annotated[int, Field(ge=1, le=MAX_SEQUENCES)] | None = None
    num_return_sequences: Annotated[int, Field(ge=1, le=MAX_SEQUENCES)] | None = None
    length_penalty: Annotated[float, Field(ge=-10, le=10, allow_inf_nan=False)] | None = None
    early_stopping: bool | Literal["never"] | None = None
    forced_bos_token_id: Annotated[int, Field(ge=0)] | None = None
    stop_strings: Stop | None = None
    use_cache: bool | None = None
    num_beam_groups: nothing("Diverse beam search", 1) = None  # type: ignore[valid-type]
    diversity_penalty: nothing("Diverse beam search", 0, 0.0) = None  # type: ignore[valid-type]
    penalty_alpha: nothing("Contrastive search", 0, 0.0) = None  # type: ignore[valid-type]
    epsilon_cutoff: nothing("Epsilon sampling", 0, 0.0) = None  # type: ignore[valid-type]
    eta_cutoff: nothing("Eta sampling", 0, 0.0) = None  # type: ignore[valid-type]

    def values(self) -> dict[str, Any]:
        """The same by our names, None where left out; a number of new tokens comes before a length."""
        values = super().values()
        if self.max_new_tokens is None and self.max_length is not None:
            values["max_tokens"] = self.max_length - 1
        least = self.min_new_tokens
        if least is None and self.min_length is not None:
            least = max(0, self.min_length - 1)
        return values | {
            "min_tokens": least,
            "min_p": self.min_p,
            "no_repeat_ngram_size": self.no_repeat_ngram_size,
            "num_beams": self.num_beams,
            "n": self.num_return_sequences,
            "length_penalty": self.length_penalty,
            "early_stopping": self.early_stopping,
            "forced_bos_token": self.forced_bos_token_id,
            "stop": self.stop_strings,
        }
