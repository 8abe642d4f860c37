"""Requests in the shape of Hugging Face's clients: `inputs`, `parameters`, and options of the task beside them."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from app.api.huggingface_generation_schemas import GenerateParameters, Part, TextGenerationParameters
from app.api.schemas import MAX_TEXTS, Text, Texts
from app.tasks.entities import Aggregation
from app.tasks.qa import DEFAULT_DOC_STRIDE, MAX_WINDOW


def _example(inputs: Any, **more: Any) -> ConfigDict:
    return ConfigDict(json_schema_extra={"examples": [{"inputs": inputs, **more}]})


class AnyRequest(BaseModel):
    """What every task takes; the rest is for the task that is found to check."""

    model_config = _example("What a lovely day!") | ConfigDict(extra="allow")
    inputs: Any
    parameters: dict[str, Any] | None = None

    def fields(self) -> dict[str, Any]:
        """As they came."""
        return {"inputs": self.inputs, "parameters": self.parameters, **(self.model_extra or {})}


class IgnoredOptions(Part):
    """What older clients say to the hosted service; here models are always loaded, and no answer is kept."""

    use_cache: bool | None = None
    wait_for_model: bool | None = None


class NoParameters(Part):
    """For tasks that have none."""


class Request(Part):
    """The base of all."""

    options: IgnoredOptions | None = None


class TextClassificationParameters(Part):
    """`function_to_apply` left out is the checkpoint's: a softmax, or a sigmoid for each label."""

    top_k: Annotated[int, Field(ge=1)] | None = None
    function_to_apply: Literal["sigmoid", "softmax", "none"] | None = None


class TextClassification(Request):
    """text-classification."""

    model_config = _example("What a lovely day!", parameters={"top_k": 2})
    inputs: Texts
    parameters: TextClassificationParameters = Field(default_factory=TextClassificationParameters)


Truncation = Literal["do_not_truncate", "longest_first", "only_first", "only_second"]


class TextToTextParameters(Part):
    """`truncation` other than `do_not_truncate` cuts a text that the model cannot hold."""

    truncation: Truncation | None = None
    clean_up_tokenization_spaces: bool | None = None
    generate_parameters: GenerateParameters = Field(default_factory=GenerateParameters)

    @property
    def truncates(self) -> bool:
        """Whether a text may be cut; there is no second one that alone could be."""
        return self.truncation in ("longest_first", "only_first")


class TranslationParameters(TextToTextParameters):
    """Language codes as the checkpoint publishes them, or shorter where that is clear."""

    src_lang: Text | None = None
    tgt_lang: Text | None = None


class Translation(Request):
    """translation."""

    model_config = _example("The house is small.", parameters={"src_lang": "en", "tgt_lang": "de"})
    inputs: Texts
    parameters: TranslationParameters = Field(default_factory=TranslationParameters)


class Summarization(Request):
    """summarization."""

    model_config = _example("The house by the river is old. Nobody has lived there since it was built.")
    inputs: Texts
    parameters: TextToTextParameters = Field(default_factory=TextToTextParameters)


class TextToText(Request):
    """text2text-generation."""

    model_config = _example("translate English to German: The house is small.")
    inputs: Texts
    parameters: TextToTextParameters = Field(default_factory=TextToTextParameters)


class QuestionAnsweringInput(Part):
    """One question and the text that may answer it."""

    question: Text
    context: Text


class QuestionAnsweringParameters(Part):
    """Lengths in tokens; what is left out is as in the pipelines of `transformers`, but for the question's length."""

    top_k: Annotated[int, Field(ge=1, le=100)] = 1
    doc_stride: Annotated[int, Field(ge=0)] = DEFAULT_DOC_STRIDE
    max_answer_len: Annotated[int, Field(ge=1, le=512)] = 15
    max_seq_len: Annotated[int, Field(ge=1)] = MAX_WINDOW
    max_question_len: Annotated[int, Field(ge=1)] | None = None
    handle_impossible_answer: bool = False
    align_to_words: bool = True


class QuestionAnswering(Request):
    """question-answering."""

    model_config = _example(
        {
            "question": "Who designed the engine?",
            "context": "The Analytical Engine was designed by Charles Babbage in 1837.",
        }
    )
    inputs: Annotated[
        Annotated[QuestionAnsweringInput, Tag("(one)")]
        | Annotated[list[QuestionAnsweringInput], Field(min_length=1, max_length=MAX_TEXTS), Tag("(many)")],
        Discriminator(lambda value: "(many)" if isinstance(value, list) else "(one)"),
    ]
    parameters: QuestionAnsweringParameters = Field(default_factory=QuestionAnsweringParameters)


class ZeroShotClassificationParameters(Part):
    """`hypothesis_template` has `{}` in the place of the label."""

    candidate_labels: Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS)]
    hypothesis_template: Text | None = None
    multi_label: bool = False


class ZeroShotClassification(Request):
    """zero-shot-classification."""

    model_config = _example("I lost my card.", parameters={"candidate_labels": ["bank", "weather"]})
    inputs: Texts
    parameters: ZeroShotClassificationParameters


class TokenClassificationParameters(Part):
    """`stride`: tokens that neighbouring windows of a long text share."""

    aggregation_strategy: Aggregation = "simple"
    ignore_labels: list[Text] = Field(default_factory=lambda: ["O"])
    stride: Annotated[int, Field(ge=0)] | None = None


class TokenClassification(Request):
    """token-classification."""

    model_config = _example("Ada Lovelace lived in London.")
    inputs: Texts
    parameters: TokenClassificationParameters = Field(default_factory=TokenClassificationParameters)


class FillMaskParameters(Part):
    """Only `targets` are ranked, where there are any."""

    top_k: Annotated[int, Field(ge=1, le=1000)] = 5
    targets: Annotated[list[Text], Field(min_length=1, max_length=1000)] | None = None


class FillMask(Request):
    """fill-mask."""

    model_config = _example("Paris is the [MASK] of France.", parameters={"top_k": 3})
    inputs: Texts
    parameters: FillMaskParameters = Field(default_factory=FillMaskParameters)


class FeatureExtraction(Request):
    """feature-extraction. Its options stand beside `inputs`, as in text-embeddings-inference."""

    model_config = _example(["one sentence", "another one"])
    inputs: Texts
    parameters: NoParameters = Field(default_factory=NoParameters)
    normalize: bool | None = None
    truncate: bool | None = None
    truncation_direction: Literal["left", "right"] | None = None
    prompt_name: Text | None = None
    dimensions: Annotated[int, Field(ge=1)] | None = None
    encoding_format: Literal["float", "base64"] | None = None


class SentenceSimilarityInput(Part):
    """One sentence, and those that are held against it."""

    source_sentence: Text
    sentences: Annotated[list[Text], Field(min_length=1, max_length=MAX_TEXTS)]


class SentenceSimilarity(Request):
    """sentence-similarity."""

    model_config = _example({"source_sentence": "It rains.", "sentences": ["It is wet.", "I am tired."]})
    inputs: Annotated[
        Annotated[SentenceSimilarityInput, Tag("(one)")]
        | Annotated[list[SentenceSimilarityInput], Field(min_length=1, max_length=MAX_TEXTS), Tag("(many)")],
        Discriminator(lambda value: "(many)" if isinstance(value, list) else "(one)"),
    ]
    parameters: NoParameters = Field(default_factory=NoParameters)


class TextGeneration(Request):
    """text-generation, with the parameters of text-generation-inference."""

    model_config = _example("The old house", parameters={"max_new_tokens": 24, "temperature": 0.8})
    inputs: Texts
    parameters: TextGenerationParameters = Field(default_factory=TextGenerationParameters)
    stream: bool | None = None
