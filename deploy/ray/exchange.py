"""One HTTP request to an ASGI application and its answer without a connection, as they travel to a replica and back."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

from starlette.types import ASGIApp, Message, Scope

_CARRIED = (
    *("type", "asgi", "http_version", "method", "scheme", "path", "raw_path", "query_string", "root_path"),
    *("headers", "client", "server"),
)


def portable(scope: Scope) -> dict[str, Any]:
    """The parts of an HTTP scope that mean the same in another process."""
    return {name: scope[name] for name in _CARRIED if name in scope}


async def answer(app: ASGIApp, scope: Scope, body: bytes) -> AsyncGenerator[list[Message], None]:
    """The application's messages, as many at once as there are. Left before the end, it tells the application that
    the client is gone, and waits for it to see to that."""
    messages: asyncio.Queue[Message | None] = asyncio.Queue()
    left = asyncio.Event()
    request: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if request:
            return request.pop()
        await left.wait()
        return {"type": "http.disconnect"}

    async def run() -> None:
        try:
            await app(scope, receive, messages.put)
        finally:
            messages.put_nowait(None)

    running = asyncio.create_task(run())
    try:
        is_open = True
        while is_open:
            batch = [await messages.get()]
            while not messages.empty():
                batch.append(messages.get_nowait())
            ready = [message for message in batch if message is not None]
            is_open = len(ready) == len(batch)
            if ready:
                yield ready
        await running
    finally:
        left.set()
        await asyncio.wait([running])


async def whole_answer(app: ASGIApp, scope: Scope) -> list[Message]:
    """All messages of the answer to a request without a body."""
    return [message async for batch in answer(app, scope, b"") for message in batch]
