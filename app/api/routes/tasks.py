"""The native task routes: one shape for all, a list in gives a list out."""

from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Response

from app.api.answers import (
    ClassifyAnswer,
    FillMaskAnswer,
    GenerateAnswer,
    QAAnswer,
    SummarizeAnswer,
    TranslateAnswer,
    told,
)
from app.api.deps import Desk, DeskDep
from app.api.schemas import (
    ClassifyBody,
    FillMaskBody,
    GenerateBody,
    QABody,
    SummarizeBody,
    TranslateBody,
    as_list,
)
from app.api.streaming import Events, EventStream, event
from app.errors import InvalidRequest
from app.tasks.base import Usage
from app.tasks.classify import Classify
from app.tasks.completion import Completion, Piece
from app.tasks.fill_mask import FillMask
from app.tasks.generate import Generate
from app.tasks.qa import QA, QAOptions, Question
from app.tasks.summarize import Summarize
from app.tasks.translate import Translate, TranslateOptions
from app.tasks.translators import AUTO, Direction, Translators
from app.tasks.zero_shot import ZeroShot, ZeroShotOptions

router = APIRouter(prefix="/v1", tags=["tasks"])


@router.post("/generate", responses=told(GenerateAnswer, streams=True))
async def generate(body: GenerateBody, desk: DeskDep) -> Response:
    """Continues a prompt, or answers it where the model is an encoder-decoder."""
    task = desk.task(Generate, body.model, body.timeout)
    options = task.options(body.values(), temperature=0.0)
    rows = await task.prompt_ids(as_list(body.prompt))
    requests = task.plan(rows, options)
    usage = desk.call.usage
    if body.stream:
        if len(requests) > 1 or options.n > 1:
            raise InvalidRequest("a stream takes one prompt and n = 1 on this route", "stream")
        if body.prompt_logprobs is not None:
            raise InvalidRequest("a stream tells nothing of the prompt", "prompt_logprobs")
        pieces = task.stream(requests, options, usage)
        return await EventStream.begin(_events(task, pieces, "results", usage), desk.call)
    completions = await task.run(requests, options, usage)
    results = [_result(task, one, rows[i // options.n]) for i, one in enumerate(completions)]
    return desk.answer(results=results)


@router.post("/translate", responses=told(TranslateAnswer, streams=True))
async def translate(body: TranslateBody, desk: DeskDep) -> Response:
    """Translates sentence by sentence; what has no letters comes back as it is."""
    task = desk.task(Translate, body.model, body.timeout)
    if body.logprobs is not None:
        raise InvalidRequest("this route tells a score, no logprobs", "logprobs", "unsupported_parameter")
    options = TranslateOptions(
        task.options(body.values(), temperature=0.0),
        body.target,
        body.source,
        body.split_sentences is not False,
        forces_token=body.forced_bos_token is not None,
    )
    usage = desk.call.usage
    if body.stream and (isinstance(body.text, list) or options.generate.n > 1):
        raise InvalidRequest("a stream takes one text and n = 1", "stream")
    if body.source == AUTO:
        return await _translate_detected(task, body, options, desk)
    if body.stream:
        assert isinstance(body.text, str)
        pieces = task.stream_translation(body.text, options, usage)
        return await EventStream.begin(_events(task, pieces, "translations", usage), desk.call)
    translations = await task.translate(as_list(body.text), options, usage)
    return desk.answer(translations=[_translation(alternatives) for alternatives in translations])


@router.post("/summarize", responses=told(SummarizeAnswer, streams=True))
async def summarize(body: SummarizeBody, desk: DeskDep) -> Response:
    """Says in short what a text says."""
    task = desk.task(Summarize, body.model, body.timeout)
    options = task.options(body.values(), temperature=0.0)
    for field in ("logprobs", "prompt_logprobs"):
        if getattr(body, field) is not None:
            raise InvalidRequest("this route tells no log-probabilities", field, "unsupported_parameter")
    usage, truncate = desk.call.usage, body.truncate is True
    if body.stream:
        if isinstance(body.text, list) or options.n > 1:
            raise InvalidRequest("a stream takes one text and n = 1", "stream")
        pieces = task.stream_summary(body.text, options, usage, truncate=truncate)
        return await EventStream.begin(_events(task, pieces, "summaries", usage), desk.call)
    summaries = await task.summarize(as_list(body.text), options, usage, truncate=truncate)
    return desk.answer(summaries=[_summary(alternatives) for alternatives in summaries])


@router.post("/classify", responses=told(ClassifyAnswer))
async def classify(body: ClassifyBody, desk: DeskDep) -> Response:
    """The labels of a text with their probabilities, best first; the model's own, or those of the request."""
    texts, truncate, usage = as_list(body.text), body.truncate is True, desk.call.usage
    if body.labels is None:
        if body.hypothesis_template is not None:
            raise InvalidRequest("goes with labels", "hypothesis_template")
        task = desk.task(Classify, body.model, body.timeout)
        results = await task.run(
            texts, usage, multi_label=body.multi_label, top_k=body.top_k, truncate=truncate
        )
        return desk.answer(results=results)
    zero_shot = desk.task(ZeroShot, body.model, body.timeout)
    options = ZeroShotOptions(body.multi_label is True, body.hypothesis_template, body.top_k, truncate)
    results = await zero_shot.run(texts, body.labels, usage, options)
    return desk.answer(results=results, method=zero_shot.method)


@router.post("/qa", responses=told(QAAnswer))
async def answer_question(body: QABody, desk: DeskDep) -> Response:
    """Where in the context the answer stands, as characters."""
    task = desk.task(QA, body.model, body.timeout)
    options = QAOptions(body.top_k, body.max_answer_tokens, body.doc_stride, body.allow_no_answer)
    return desk.answer(answers=await task.run(_questions(body), options, desk.call.usage))


@router.post("/fill-mask", responses=told(FillMaskAnswer))
async def fill_mask(body: FillMaskBody, desk: DeskDep) -> Response:
    """The likeliest tokens in the place of the mask token."""
    task = desk.task(FillMask, body.model, body.timeout)
    fillings = await task.run(as_list(body.text), desk.call.usage, top_k=body.top_k)
    results = [[{"token": f.token, "score": f.score, "text": f.text} for f in one] for one in fillings]
    return desk.answer(results=results)


async def _translate_detected(
    task: Translate, body: TranslateBody, options: TranslateOptions, desk: Desk
) -> Response:
    """Each text from the language that it is in; `detected` says which."""
    translators = Translators([task], desk.registry.detector)
    usage = desk.call.usage

    def directed(direction: Direction) -> TranslateOptions:
        return replace(options, source=direction.source, target=direction.target)

    if body.stream:
        found, pieces = await translators.stream(as_list(body.text)[0], body.target, directed, usage)
        events = _events(task, pieces, "translations", usage, first={"detected": found})
        return await EventStream.begin(events, desk.call)
    done = await translators.translate(as_list(body.text), AUTO, body.target, directed, usage)
    detected = [_translation(one.alternatives) | {"detected": one.detected} for one in done]
    return desk.answer(translations=detected)


async def _events(
    task: Generate,
    pieces: AsyncGenerator[Piece],
    key: str,
    usage: Usage,
    first: Mapping[str, Any] | None = None,
) -> Events:
    """The route's answer shape with only the new text in it; the last one says how it ended, the first has `first`."""
    async with aclosing(pieces):
        async for piece in pieces:
            result: dict[str, Any] = {"text": piece.text, **(first or {})}
            first = None
            if piece.logprobs is not None and key == "results":
                result["logprobs"] = task.told_logprobs(piece.token_ids, piece.logprobs)
            told: dict[str, Any] = {"model": task.model.name, key: [result]}
            if piece.finish_reason is not None:
                result["finish_reason"] = piece.finish_reason
                told["usage"] = usage.as_dict()
            yield event(told)


def _result(task: Generate, completion: Completion, prompt: list[int]) -> dict[str, Any]:
    result: dict[str, Any] = {"text": completion.text, "finish_reason": completion.finish_reason}
    if completion.logprobs is not None:
        result["logprobs"] = task.told_logprobs(completion.token_ids, completion.logprobs)
    if completion.prompt_logprobs is not None:
        result["prompt_logprobs"] = [None, *task.told_logprobs(prompt[1:], completion.prompt_logprobs)]
    return result


def _translation(alternatives: list[Any]) -> dict[str, Any]:
    best, *others = alternatives
    result = {"text": best.text, "score": best.score}
    return result | {"alternatives": others} if others else result


def _summary(alternatives: list[str]) -> dict[str, Any]:
    best, *others = ({"text": text} for text in alternatives)
    return best | {"alternatives": others} if others else best


def _questions(body: QABody) -> list[Question]:
    if body.inputs is not None:
        if body.question is not None or body.context is not None:
            raise InvalidRequest("give either inputs, or question and context", "inputs")
        return [Question(item.question, item.context) for item in body.inputs]
    if body.question is None or body.context is None:
        missing = "question" if body.question is None else "context"
        raise InvalidRequest(f"{missing} is required", missing, "missing_parameter")
    return [Question(body.question, body.context)]
