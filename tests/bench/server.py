"""A hand-written HTTP server in a thread, for answers that no real one gives."""

import asyncio
import json
import ssl
import threading
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

Writer = asyncio.StreamWriter


@dataclass(frozen=True)
class Asked:
    """One request; `number` counts all that came before it."""

    method: str
    path: str
    headers: dict[str, str]
    content: bytes
    number: int

    @property
    def body(self) -> Any:
        return json.loads(self.content)


@dataclass
class Site:
    """`connections` counts those that were made."""

    port: int
    asked: list[Asked]
    connections: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


Handle = Callable[[Asked, Writer], Awaitable[None]]


@contextmanager
def serving(handle: Handle, tls: ssl.SSLContext | None = None) -> Iterator[Site]:
    """`handle` writes each answer; it may close the connection."""
    site = Site(0, [])

    async def talk(reader: asyncio.StreamReader, writer: Writer) -> None:
        site.connections += 1
        try:
            while not writer.is_closing():
                asked = await _read(reader, len(site.asked))
                site.asked.append(asked)
                await handle(asked, writer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()

    loop = asyncio.new_event_loop()
    server = loop.run_until_complete(asyncio.start_server(talk, "127.0.0.1", 0, ssl=tls))
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    site.port = server.sockets[0].getsockname()[1]
    try:
        yield site
    finally:
        asyncio.run_coroutine_threadsafe(_stop(server), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _read(reader: asyncio.StreamReader, number: int) -> Asked:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    line, *fields = head.rstrip().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    content = await reader.readexactly(int(headers.get("content-length", 0)))
    method, path, _ = line.split(" ")
    return Asked(method, path, headers, content, number)


async def _stop(server: asyncio.Server) -> None:
    server.close()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.sleep(0)  # connections are closed one turn of the loop after they are told to be


def sized(content: bytes, status: str = "200 OK", *fields: str) -> bytes:
    """A whole answer."""
    head = "".join(
        f"{field}\r\n" for field in (f"HTTP/1.1 {status}", f"Content-Length: {len(content)}", *fields)
    )
    return f"{head}\r\n".encode() + content


def told(value: Any, status: str = "200 OK", *fields: str) -> bytes:
    """The same of JSON."""
    return sized(
        json.dumps(value, ensure_ascii=False).encode(), status, "Content-Type: application/json", *fields
    )


STREAM = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
DONE = b"data: [DONE]\n\n"
LAST = b"0\r\n\r\n"


def chunk(content: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(content), content)


def event(value: Any) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def piece(text: str, **fields: Any) -> bytes:
    """A chunk of a completion's stream."""
    return event({"choices": [{"index": 0, "text": text, **fields}]})


def usage(prompt: int, output: int) -> bytes:
    return event({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": output}})


def stream(events: Sequence[bytes]) -> bytes:
    """A whole chunked answer."""
    return STREAM + b"".join(map(chunk, events)) + LAST
