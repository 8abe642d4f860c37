"""The routes that OpenAI's clients call: completions, embeddings, models."""

import base64
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Response

from app.api.completions import Choices
from app.api.deps import DeskDep, RegistryDep
from app.api.errors import JSON, encode_json
from app.api.openai_schemas import CompletionBody, EmbeddingsBody
from app.api.streaming import EventStream
from app.errors import InvalidRequest
from app.tasks.completion import Piece
from app.tasks.embed import Embed
from app.tasks.generate import Generate

router = APIRouter(prefix="/v1", tags=["openai"])

COMPLETION_MAX_TOKENS = 16


@router.post("/completions")
async def complete(body: CompletionBody, desk: DeskDep) -> Response:
    """Continues prompts, given as text or as token ids."""
    _check(body)
    task = desk.task(Generate, body.model, body.timeout)
    values = body.values()
    values["max_tokens"] = body.max_tokens or body.max_completion_tokens or COMPLETION_MAX_TOKENS
    if body.echo and body.logprobs is not None:
        values["prompt_logprobs"] = body.logprobs
    options = task.options(values, temperature=1.0)
    rows = await task.prompt_ids(body.prompt)
    requests = task.plan(rows, options)
    choices = Choices(task, body.prompt, rows, options.n, is_echo=body.echo is True)
    head = {
        "id": f"cmpl-{desk.call.request_id}",
        "object": "text_completion",
        "created": int(time.time()),
        "model": task.model.name,
    }
    usage = desk.call.usage
    if body.stream:
        pieces = task.stream(requests, options, usage)
        wants_usage = body.stream_options is not None and body.stream_options.include_usage is True
        events = _chunks(head, pieces, choices, desk, wants_usage=wants_usage)
        return await EventStream.begin(events, desk.call)
    done = await task.run(requests, options, usage)
    answer = head | {"choices": choices.whole(done), "usage": usage.as_dict()}
    return Response(encode_json(answer), media_type=JSON)


@router.post("/embeddings")
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
    answer = {"object": "list", "data": data, "model": task.model.name, "usage": desk.call.usage.as_dict()}
    return Response(encode_json(answer), media_type=JSON)


@router.get("/models")
async def list_models(registry: RegistryDep) -> Response:
    """All served models with their tasks."""
    return Response(encode_json({"object": "list", "data": registry.model_cards()}), media_type=JSON)


@router.get("/models/{name:path}")
async def show_model(name: str, registry: RegistryDep) -> Response:
    """One served model."""
    return Response(encode_json(registry.model_card(name)), media_type=JSON)


def _check(body: CompletionBody) -> None:
    if body.stream and (body.prompt_logprobs is not None or (body.echo and body.logprobs is not None)):
        raise InvalidRequest("a stream tells nothing of the prompt", "stream")
    if body.max_tokens is not None and body.max_completion_tokens not in (None, body.max_tokens):
        raise InvalidRequest("contradicts max_tokens", "max_completion_tokens")
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("only a stream takes stream_options", "stream_options")


async def _chunks(
    head: dict[str, Any],
    pieces: AsyncGenerator[Piece],
    choices: Choices,
    desk: DeskDep,
    *,
    wants_usage: bool,
) -> AsyncGenerator[dict[str, Any]]:
    """One chunk per piece; with `include_usage` every chunk has the key, and only the last one a value."""
    tail: dict[str, Any] = {"usage": None} if wants_usage else {}
    async with aclosing(pieces):
        async for piece in pieces:
            yield {**head, "choices": [choices.piece(piece)], **tail}
    if wants_usage:
        yield {**head, "choices": [], "usage": desk.call.usage.as_dict()}
