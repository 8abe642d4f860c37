"""The routes that OpenAI's clients call: completions, embeddings, models."""

import base64

from fastapi import APIRouter, Response

from app.api.answers import told
from app.api.completions import CompletionChoices
from app.api.deps import DeskDep, RegistryDep
from app.api.errors import JSON, encode_json
from app.api.openai_answer import Kind, answer, check
from app.api.openai_answers import CompletionAnswer, EmbeddingsAnswer, ModelCard, ModelList
from app.api.openai_schemas import CompletionBody, EmbeddingsBody
from app.errors import InvalidRequest
from app.tasks.embed import Embed
from app.tasks.generate import Generate

router = APIRouter(prefix="/v1", tags=["openai"])

COMPLETION_MAX_TOKENS = 16
_KIND = Kind("cmpl", "text_completion", "text_completion")


@router.post("/completions", responses=told(CompletionAnswer, streams=True))
async def complete(body: CompletionBody, desk: DeskDep) -> Response:
    """Continues prompts, given as text or as token ids."""
    check(body)
    tells_prompt = body.echo is True and body.logprobs is not None
    if body.stream and tells_prompt:
        raise InvalidRequest("a stream tells nothing of the prompt", "stream")
    task = desk.task(Generate, body.model, body.timeout)
    values = body.values()
    values["max_tokens"] = values["max_tokens"] or COMPLETION_MAX_TOKENS
    if tells_prompt:
        values["prompt_logprobs"] = body.logprobs
    options = task.options(values, temperature=1.0)
    rows = await task.prompt_ids(body.prompt)
    choices = CompletionChoices(task, body.prompt, rows, options.n, is_echo=body.echo is True)
    return await answer(_KIND, body, desk, task, rows, options, choices)


@router.post("/embeddings", responses=told(EmbeddingsAnswer))
async def embed(body: EmbeddingsBody, desk: DeskDep) -> Response:
    """Vectors of unit length; as base64 (little-endian float32) or as lists of numbers."""
    task = desk.task(Embed, body.model, body.timeout)
    rows = await task.run(
        body.input, desk.call.usage, dimensions=body.dimensions, truncate=body.truncate is True
    )
    is_base64 = body.encoding_format == "base64"
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(row.tobytes()).decode() if is_base64 else row.tolist(),
        }
        for index, row in enumerate(rows)
    ]
    vectors = {"object": "list", "data": data, "model": task.model.name, "usage": desk.call.usage.as_dict()}
    return Response(encode_json(vectors), media_type=JSON)


@router.get("/models", responses=told(ModelList))
async def list_models(registry: RegistryDep) -> Response:
    """All served models with their tasks."""
    return Response(encode_json({"object": "list", "data": registry.model_cards()}), media_type=JSON)


@router.get("/models/{name:path}", responses=told(ModelCard))
async def show_model(name: str, registry: RegistryDep) -> Response:
    """One served model."""
    return Response(encode_json(registry.model_card(name)), media_type=JSON)
