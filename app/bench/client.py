"""One request after the other to one server, each to its end, whatever that is."""

import asyncio
import json
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from app.bench.connection import Answer, Connection, Fault, Site
from app.bench.events import EventReader
from app.bench.outcome import REFUSED, Outcome
from app.bench.routes import Body

_MESSAGE_SIGNS = 300
_TEXTS = ("choices", "results", "translations", "summaries")
_TEXT_FIELDS = ("text", "content", "reasoning_content", "reasoning", "tool_calls")


@dataclass(frozen=True)
class Request:
    """`at` is in seconds from the start, where arrivals are planned; the numbers are None where nobody knows."""

    body: Body
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    at: float = 0.0


class Client:
    """Connections to one server, as many as there are requests at once, each kept for the next request.

    `timeout` is in seconds, for a whole request.
    """

    def __init__(
        self,
        site: Site,
        headers: Mapping[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
        timeout: float = 600.0,
    ) -> None:
        self._site, self._headers, self._tls, self._timeout = site, headers, tls, timeout
        self._idle: list[Connection] = []

    def close(self) -> None:
        """All idle connections."""
        while self._idle:
            self._idle.pop().close()

    async def ask(self, path: str, request: Request, planned: float | None = None) -> Outcome:
        """Never fails: what went wrong is told by the outcome. `planned` is now where it is left out."""
        clock = asyncio.get_running_loop().time
        sent = clock()
        outcome = Outcome(
            sent if planned is None else planned, sent, request.prompt_tokens, request.output_tokens
        )
        content = json.dumps(request.body).encode()
        connection = self._take()
        try:
            async with asyncio.timeout(self._timeout):
                answer = await connection.ask("POST", path, content)
                await _hear(answer, outcome)
        except TimeoutError:
            outcome.fail("timeout", f"no whole answer within {self._timeout:g} s")
        except Fault as fault:
            outcome.fail(fault.kind, str(fault))
        except BaseException:
            connection.close()
            raise
        outcome.end = outcome.end or clock()
        self._give_back(connection, is_whole=outcome.failure is None or outcome.failure == REFUSED)
        return outcome

    async def call(self, method: str, path: str, body: Body | None = None) -> Any:
        """The JSON of the answer, beside what is measured. Raises Fault; its kind is `HTTP 404` for a status."""
        content = None if body is None else json.dumps(body).encode()
        connection = self._take()
        is_whole = False
        try:
            async with asyncio.timeout(self._timeout):
                answer = await connection.ask(method, path, content)
                read = await answer.read()
            is_whole = True
            if answer.status != 200:
                raise Fault(f"HTTP {answer.status}", f"HTTP {answer.status}: {_told(read)}")
            return _parse(read)
        except TimeoutError:
            raise Fault("timeout", f"no answer within {self._timeout:g} s") from None
        finally:
            self._give_back(connection, is_whole)

    def _take(self) -> Connection:
        return self._idle.pop() if self._idle else Connection(self._site, self._headers, self._tls)

    def _give_back(self, connection: Connection, is_whole: bool) -> None:
        if is_whole:
            self._idle.append(connection)
        else:
            connection.close()


async def _hear(answer: Answer, outcome: Outcome) -> None:
    if answer.status != 200:
        is_refused = answer.status == 429
        outcome.retry_after = _seconds(answer.headers.get("retry-after"))
        outcome.fail(REFUSED if is_refused else f"HTTP {answer.status}", _told(await answer.read()))
    elif answer.headers.get("content-type", "").lower().startswith("text/event-stream"):
        await _listen(answer, outcome)
    else:
        _note(_parse(await answer.read()), outcome)


async def _listen(answer: Answer, outcome: Outcome) -> None:
    clock, events, is_over = asyncio.get_running_loop().time, EventReader(), False
    async for piece in answer.pieces():
        now = clock()
        for data in events.feed(piece):
            outcome.end = now
            if data.strip() == "[DONE]":
                is_over = True
                continue
            event = _parse(data)
            _note(event, outcome)
            entries = list(_entries(event))
            outcome.pieces += [now] * any(map(_has_text, entries))
            is_over = is_over or any(entry.get("finish_reason") for entry in entries)
    if not is_over and outcome.failure is None:
        raise Fault("closed", "the stream ended without its last event")


def _note(answer: Body, outcome: Outcome) -> None:
    """Counts and errors, of an event or of a whole answer."""
    if answer.get("error"):
        outcome.fail("error event", _told(json.dumps(answer).encode()))
    usage = answer.get("usage")
    if isinstance(usage, dict):
        prompt, output = usage.get("prompt_tokens"), usage.get("completion_tokens")
        outcome.prompt_tokens = prompt if isinstance(prompt, int) else outcome.prompt_tokens
        outcome.output_tokens = output if isinstance(output, int) else outcome.output_tokens


def _entries(event: Body) -> Iterator[Body]:
    for name in _TEXTS:
        for entry in event.get(name) or ():
            if isinstance(entry, dict):
                yield entry


def _has_text(entry: Body) -> bool:
    delta = entry.get("delta")
    places = (entry, delta) if isinstance(delta, dict) else (entry,)
    return any(place.get(name) for place in places for name in _TEXT_FIELDS)


def _parse(content: bytes | str) -> Body:
    try:
        value = json.loads(content)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        shown = content[:80] if isinstance(content, str) else content[:80].decode(errors="replace")
        raise Fault("protocol", f"the answer is no JSON object: {shown!r}")
    return value


def _told(content: bytes) -> str:
    """What a server says of its error, out of whichever shape."""
    text = content.decode(errors="replace")
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if isinstance(value, dict):
        error = value.get("error", value)
        said = error.get("message") if isinstance(error, dict) else error
        text = str(said or value.get("message") or value.get("detail") or text)
    return " ".join(text.split())[:_MESSAGE_SIGNS] or "(no words)"


def _seconds(text: str | None) -> float | None:
    """Of a Retry-After that is a number; the other form, a date, is not used here."""
    try:
        return None if text is None else max(0.0, float(text))
    except ValueError:
        return None
