"""What completions and chats share on the wire: the checks of a body, the answer whole or in chunks."""

import time
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, Protocol

from fastapi import Response

from app.api.deps import Desk
from app.api.errors import JSON, encode_json
from app.api.openai_schemas import OpenAIParameters
from app.api.streaming import Events, EventStream, event
from app.errors import InvalidRequest
from app.tasks.completion import Completion, Piece
from app.tasks.generate import Generate
from app.tasks.sampling import GenerateOptions


@dataclass(frozen=True)
class Kind:
    """What an object and its chunks are called, and how their ids begin."""

    prefix: str
    whole: str
    chunk: str


class Choices(Protocol):
    """Shapes the texts of one request, which are prompts × n in order."""

    def whole(self, done: Sequence[Completion]) -> list[dict[str, Any]]:
        """All choices of a plain answer."""
        ...

    def news(self, piece: Piece) -> Iterable[dict[str, Any]]:
        """The choices, each of a chunk of its own, that tell a piece; at least one."""
        ...


def check(body: OpenAIParameters) -> None:
    """Raises InvalidRequest for fields that contradict each other."""
    if body.max_tokens is not None and body.max_completion_tokens not in (None, body.max_tokens):
        raise InvalidRequest("contradicts max_tokens", "max_completion_tokens")
    if body.stream_options is not None and not body.stream:
        raise InvalidRequest("only a stream takes stream_options", "stream_options")
    if body.stream and body.prompt_logprobs is not None:
        raise InvalidRequest("a stream tells nothing of the prompt", "stream")


async def answer(
    kind: Kind,
    body: OpenAIParameters,
    desk: Desk,
    task: Generate,
    rows: Sequence[list[int]],
    options: GenerateOptions,
    choices: Choices,
) -> Response:
    """Generates from `rows` what the body asks for."""
    requests = task.plan(rows, options)
    usage = desk.call.usage
    head = {
        "id": f"{kind.prefix}-{desk.call.request_id}",
        "object": kind.chunk if body.stream else kind.whole,
        "created": int(time.time()),
        "model": task.model.name,
        "system_fingerprint": f"quartet-{desk.registry.version}",
    }
    if body.stream:
        pieces = task.stream(requests, options, usage)
        events = _chunks(head, pieces, choices, desk, wants_usage=body.wants_usage)
        return await EventStream.begin(events, desk.call)
    done = await task.run(requests, options, usage)
    whole = head | {"choices": choices.whole(done), "usage": _usage(desk)}
    return Response(encode_json(whole), media_type=JSON)


def told_prompt(task: Generate, row: Sequence[int], piece: Piece | Completion) -> list[dict[str, Any]]:
    """What is told of the prompt's tokens, of the first that it comes first; [] where nothing was asked."""
    if piece.prompt_logprobs is None:
        return []
    first, *others = row
    text = task.model.tokenizer.decode([first], skip_special_tokens=False)
    told = task.told_logprobs(others, piece.prompt_logprobs)
    return [{"token": text, "id": first, "logprob": None, "top": None}, *told]


async def _chunks(
    head: dict[str, Any],
    pieces: AsyncGenerator[Piece],
    choices: Choices,
    desk: Desk,
    *,
    wants_usage: bool,
) -> Events:
    """With `include_usage` every chunk has the key, and only the last one a value. Nothing but the choices changes from
    one to the next."""
    before = b'data: %b,"choices":[' % encode_json(head).removesuffix(b"}")
    after = b'],"usage":null}\n\n' if wants_usage else b"]}\n\n"
    async with aclosing(pieces):
        async for piece in pieces:
            yield b"".join([before + encode_json(choice) + after for choice in choices.news(piece)])
    if wants_usage:
        yield event({**head, "choices": [], "usage": _usage(desk)})


def _usage(desk: Desk) -> dict[str, Any]:
    """The contract's counts, and what OpenAI's clients read of them under their own name."""
    counts = desk.call.usage.as_dict()
    return counts | {"prompt_tokens_details": {"cached_tokens": counts["cached_tokens"]}}
