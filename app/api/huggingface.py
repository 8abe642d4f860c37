"""What Hugging Face's tasks answer, to the letter: one function each, and the table that finds it."""

import base64
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from app.api.call import Call
from app.api.huggingface_generation import generate_text, rewrite, summarize, translate
from app.api.huggingface_schemas import (
    FeatureExtraction,
    FillMask,
    QuestionAnswering,
    Request,
    SentenceSimilarity,
    Summarization,
    TextClassification,
    TextGeneration,
    TextToText,
    TokenClassification,
    Translation,
    ZeroShotClassification,
)
from app.api.schemas import as_list
from app.errors import InvalidRequest, UnsupportedTask
from app.tasks import fill_mask
from app.tasks.base import Task
from app.tasks.classify import Classify
from app.tasks.embed import Embed
from app.tasks.entities import Entity
from app.tasks.generate import Generate
from app.tasks.ner import Ner, NerOptions
from app.tasks.qa import QA, Answer, QAOptions, Question
from app.tasks.served import Served
from app.tasks.summarize import Summarize
from app.tasks.translate import Translate
from app.tasks.zero_shot import ZeroShot, ZeroShotOptions


async def classify(task: Classify, body: TextClassification, call: Call) -> Any:
    """The labels of a text with their scores, best first: a list of such lists, also for one text."""
    wanted = body.parameters
    return await task.run(
        as_list(body.inputs), call.usage, top_k=wanted.top_k, function=wanted.function_to_apply
    )


async def classify_zero_shot(task: ZeroShot, body: ZeroShotClassification, call: Call) -> Any:
    """The labels of the request with their scores, best first."""
    wanted = body.parameters
    options = ZeroShotOptions(wanted.multi_label, wanted.hypothesis_template)
    results = await task.run(as_list(body.inputs), wanted.candidate_labels, call.usage, options)
    return results if isinstance(body.inputs, list) else results[0]


async def classify_tokens(task: Ner, body: TokenClassification, call: Call) -> Any:
    """The entities of a text, as an `entity_group`; without aggregation the tokens, each an `entity`."""
    wanted = body.parameters
    options = NerOptions(wanted.aggregation_strategy, tuple(wanted.ignore_labels), wanted.stride)
    found = await task.run(as_list(body.inputs), options, call.usage)
    results = [[_entity(one) for one in entities] for entities in found]
    return results if isinstance(body.inputs, list) else results[0]


def _entity(one: Entity) -> dict[str, Any]:
    place: dict[str, Any] = {"word": one.word, "start": one.start, "end": one.end}
    if one.index is None:
        return {"entity_group": one.entity, "score": one.score, **place}
    return {"entity": one.entity, "score": one.score, "index": one.index, **place}


async def answer_question(task: QA, body: QuestionAnswering, call: Call) -> Any:
    """The best answer, or with `top_k` above 1 a list of them."""
    wanted = body.parameters
    items = body.inputs if isinstance(body.inputs, list) else [body.inputs]
    for name in ("question", "context"):
        if not all(getattr(item, name).strip() for item in items):
            raise InvalidRequest(f"the {name} must not be blank", name)
    options = QAOptions(
        top_k=wanted.top_k,
        max_answer_tokens=wanted.max_answer_len,
        doc_stride=wanted.doc_stride,
        allow_no_answer=wanted.handle_impossible_answer,
        max_question_tokens=wanted.max_question_len,
        max_window=wanted.max_seq_len,
        whole_words=wanted.align_to_words,
    )
    questions = [Question(item.question, item.context) for item in items]
    found: list[Any] = list(await task.run(questions, options, call.usage))
    if wanted.top_k == 1:
        found = [next(iter(answers), Answer("", 0.0, 0, 0)) for answers in found]
    return found if isinstance(body.inputs, list) else found[0]


async def fill(task: fill_mask.FillMask, body: FillMask, call: Call) -> Any:
    """The likeliest tokens for the mask, with the text that each makes."""
    wanted = body.parameters
    found = await task.run(
        as_list(body.inputs), call.usage, top_k=wanted.top_k, targets=wanted.targets or (), decodes=True
    )
    results = [
        [{"score": f.score, "token": f.token_id, "token_str": f.token, "sequence": f.text} for f in one]
        for one in found
    ]
    return results if isinstance(body.inputs, list) else results[0]


async def extract_features(task: Embed, body: FeatureExtraction, call: Call) -> Any:
    """A vector for each text, as a list of lists, also for one text."""
    texts = [task.prompt(body.prompt_name) + text for text in as_list(body.inputs)]
    rows = await task.run(
        texts,
        call.usage,
        dimensions=body.dimensions,
        truncate=body.truncate is True,
        side=body.truncation_direction or "right",
        normalizes=body.normalize is not False,
    )
    if body.encoding_format == "base64":
        return [base64.b64encode(row.tobytes()).decode() for row in rows]
    return rows.tolist()


async def compare_sentences(task: Embed, body: SentenceSimilarity, call: Call) -> Any:
    """The cosines between the source sentence and the others."""
    items = body.inputs if isinstance(body.inputs, list) else [body.inputs]
    texts = [text for item in items for text in (item.source_sentence, *item.sentences)]
    rows = await task.run(texts, call.usage)
    results, start = [], 0
    for item in items:
        end = start + 1 + len(item.sentences)
        results.append((rows[start + 1 : end] @ rows[start]).tolist())
        start = end
    return results if isinstance(body.inputs, list) else results[0]


@dataclass(frozen=True)
class Pipeline:
    """One of Hugging Face's tasks: which of ours does it, what it is asked, how it answers."""

    name: str
    task: type[Task]
    request: type[Request]
    answer: Callable[[Any, Any, Call], Awaitable[Any]]


PIPELINES: Mapping[str, Pipeline] = {
    pipeline.name: pipeline
    for pipeline in (
        Pipeline("text-classification", Classify, TextClassification, classify),
        Pipeline("zero-shot-classification", ZeroShot, ZeroShotClassification, classify_zero_shot),
        Pipeline("token-classification", Ner, TokenClassification, classify_tokens),
        Pipeline("translation", Translate, Translation, translate),
        Pipeline("question-answering", QA, QuestionAnswering, answer_question),
        Pipeline("fill-mask", fill_mask.FillMask, FillMask, fill),
        Pipeline("feature-extraction", Embed, FeatureExtraction, extract_features),
        Pipeline("sentence-similarity", Embed, SentenceSimilarity, compare_sentences),
        Pipeline("text-generation", Generate, TextGeneration, generate_text),
        Pipeline("summarization", Summarize, Summarization, summarize),
        Pipeline("text2text-generation", Generate, TextToText, rewrite),
    )
}


def _fields_of_one_task() -> dict[str, str]:
    owners: dict[str, set[str]] = {}
    for pipeline in PIPELINES.values():
        fields = pipeline.request.model_fields
        parameters = getattr(fields["parameters"].annotation, "model_fields", {})
        for name in (*fields, *parameters):
            owners.setdefault(name, set()).add(pipeline.name)
    asked = {"question": "question-answering", "source_sentence": "sentence-similarity"}
    return asked | {name: next(iter(tasks)) for name, tasks in owners.items() if len(tasks) == 1}


_OF_ONE_TASK = _fields_of_one_task()
"""Fields of a request, wherever in it, that only one task takes → the task."""
_MADE_FOR = {
    "classify": "text-classification",
    "embed": "feature-extraction",
    "fill-mask": "fill-mask",
    "ner": "token-classification",
    "qa": "question-answering",
    "rerank": "text-classification",
    "summarize": "summarization",
    "translate": "translation",
    "zero-shot": "zero-shot-classification",
}
"""Our task → theirs; what a model generates depends on its kind."""


def named_by_fields(body: Mapping[str, Any]) -> Pipeline | None:
    """The task whose own fields the request has."""
    for part in (body.get("inputs"), body.get("parameters"), body):
        if isinstance(part, dict):
            for field in part:
                if field in _OF_ONE_TASK and part[field] is not None:
                    return PIPELINES[_OF_ONE_TASK[field]]
    return None


def pipeline_of(model: Served) -> Pipeline:
    """The task that a model was made for. Raises UnsupportedTask for one that only chats."""
    own = model.tasks[0].name
    if own == "generate":
        return PIPELINES["text-generation" if model.config.kind == "decoder" else "text2text-generation"]
    if own not in _MADE_FOR:
        raise UnsupportedTask(f"{model.name!r} can only {own}, which has a route of its own", param="model")
    return PIPELINES[_MADE_FOR[own]]
