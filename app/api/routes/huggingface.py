"""The routes that Hugging Face's clients call. Each task has its own, and models and `/` find theirs."""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response
from fastapi import Request as HTTPRequest
from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from app.api.answers import told
from app.api.chat_schemas import ChatBody
from app.api.deps import Desk, DeskDep
from app.api.errors import JSON, encode_json
from app.api.huggingface import PIPELINES, Pipeline, named_by_fields, pipeline_of
from app.api.huggingface_schemas import AnyRequest, Request, TextGeneration
from app.api.openai_answers import ChatAnswer, CompletionAnswer
from app.api.openai_schemas import CompletionBody
from app.api.routes.chat import chat
from app.api.routes.openai import complete
from app.errors import InvalidRequest, RouteNotFound

router = APIRouter(tags=["hugging face"])

ModelName = Annotated[str, Path(examples=["sentiment"])]
GeneratorName = Annotated[str, Path(examples=["writer"])]
TaskName = Annotated[str, Path(examples=["text-classification"])]

_STREAMS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The answer; with `stream`, events of its tokens",
        "content": {"text/event-stream": {}},
    }
}

_THEIR_NAMES = {
    **dict.fromkeys(("text", "prompt", "input"), "inputs"),
    **dict.fromkeys(("json_schema", "regex", "response_format"), "grammar"),
    "allow_no_answer": "handle_impossible_answer",
    "forced_bos_token": "forced_bos_token_id",
    "labels": "candidate_labels",
    "logprobs": "top_n_tokens",
    "max_answer_tokens": "max_answer_len",
    "max_tokens": "max_new_tokens",
    "min_tokens": "min_new_tokens",
    "n": "num_return_sequences",
    "prompt_logprobs": "decoder_input_details",
    "source": "src_lang",
    "target": "tgt_lang",
}
"""What is at fault by our name → by theirs."""


def _task_route(pipeline: Pipeline) -> Callable[[Any, Desk], Coroutine[Any, Any, Response]]:
    async def route(body: Any, desk: DeskDep) -> Response:
        return await _answer(pipeline, body, None, desk)

    route.__annotations__["body"] = pipeline.request
    return route


for _pipeline in PIPELINES.values():
    router.add_api_route(
        f"/pipeline/{_pipeline.name}",
        _task_route(_pipeline),
        methods=["POST"],
        summary=_pipeline.name.capitalize(),
        description=_pipeline.answer.__doc__,
        name=_pipeline.name,
        responses=_STREAMS if _pipeline.request is TextGeneration else None,
    )


@router.post("/models/{model:path}/pipeline/{task}", responses=_STREAMS)
async def answer_task_of_model(model: ModelName, task: TaskName, body: AnyRequest, desk: DeskDep) -> Response:
    """A task by the named model."""
    pipeline = PIPELINES.get(task)
    if pipeline is None:
        raise RouteNotFound(f"there is no task {task[:100]!r}; the tasks are {', '.join(PIPELINES)}")
    return await _answer(pipeline, _read(pipeline, body.fields()), model, desk)


@router.post("/models/{model:path}/v1/chat/completions", responses=told(ChatAnswer, streams=True))
async def chat_with_model(
    model: GeneratorName, body: ChatBody, request: HTTPRequest, desk: DeskDep
) -> Response:
    """A chat, as clients send it that know the address of a model alone."""
    return await chat(body.model_copy(update={"model": model}), request, desk)


@router.post("/models/{model:path}/v1/completions", responses=told(CompletionAnswer, streams=True))
async def complete_by_model(model: GeneratorName, body: CompletionBody, desk: DeskDep) -> Response:
    """A completion, as the JavaScript client asks a model's address for text."""
    return await complete(body.model_copy(update={"model": model}), desk)


@router.post("/models/{model:path}", responses=_STREAMS)
async def answer_for_model(model: ModelName, body: AnyRequest, desk: DeskDep) -> Response:
    """What the request's fields name, else what the named model is made for."""
    fields = body.fields()
    pipeline = named_by_fields(fields) or pipeline_of(desk.registry.model(model))
    return await _answer(pipeline, _read(pipeline, fields), model, desk)


@router.post("/", responses=_STREAMS)
async def answer_for_all(body: AnyRequest, desk: DeskDep) -> Response:
    """What the request's fields name, by the task's default model; else what the first served model is made for."""
    fields, model = body.fields(), None
    pipeline = named_by_fields(fields)
    if pipeline is None:
        first = desk.registry.model(None)
        pipeline, model = pipeline_of(first), first.name
    return await _answer(pipeline, _read(pipeline, fields), model, desk)


def _read(pipeline: Pipeline, fields: dict[str, Any]) -> Request:
    try:
        return pipeline.request.model_validate(fields)
    except ValidationError as fault:
        of_body = [{**one, "loc": ("body", *one["loc"])} for one in fault.errors()]
        raise RequestValidationError(of_body) from None


async def _answer(pipeline: Pipeline, body: Request, model: str | None, desk: Desk) -> Response:
    try:
        if isinstance(body, TextGeneration) and body.parameters.adapter_id is not None:
            model = _adapter(body.parameters.adapter_id, model, desk)
        answer = await pipeline.answer(desk.task(pipeline.task, model), body, desk.call)
    except InvalidRequest as error:
        error.param = _THEIR_NAMES.get(error.param or "", error.param)
        raise
    return answer if isinstance(answer, Response) else Response(encode_json(answer), media_type=JSON)


def _adapter(name: str, model: str | None, desk: Desk) -> str:
    """An adapter is a served name of its own, on a base that the route may name, too."""
    base = desk.registry.served[name].base if name in desk.registry.served else None
    if base is None or model not in (None, base, name):
        of = "" if model is None else f" of {model!r}"
        raise InvalidRequest(f"{name[:100]!r} is no adapter{of}", "adapter_id")
    return name
