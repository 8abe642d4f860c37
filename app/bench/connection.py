"""A small HTTP/1.1 client over asyncio streams: the measured machine's cores belong to the service.

Keep-alive, TLS, chunked and sized bodies, nothing else: no redirects, no proxies, no compression.
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_PIECE_BYTES = 2**16
_HEAD_BYTES = 2**16


class Fault(OSError):
    """No whole answer came. `kind` says how: connect, closed (in the middle of it) or protocol (it is no HTTP)."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Site:
    """Where a server is; `prefix` stands before every path."""

    scheme: str
    host: str
    port: int
    prefix: str = ""

    @classmethod
    def parse(cls, url: str) -> Self:
        """A `/v1` at the end is no part of the prefix. Raises ValueError with what is wrong."""
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{url!r} is no http:// or https:// address")
        if parts.query or parts.fragment or parts.username is not None:
            raise ValueError(f"{url!r} has more than scheme, host, port and path")
        if not url.isascii() or any(sign.isspace() for sign in url):
            raise ValueError(f"{url!r} has signs that an address cannot have")
        port = parts.port or {"http": 80, "https": 443}[parts.scheme]
        return cls(parts.scheme, parts.hostname, port, parts.path.rstrip("/").removesuffix("/v1").rstrip("/"))

    @property
    def authority(self) -> str:
        """As the Host header has it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.prefix}"


class Answer:
    """Status and headers (names in lower case); the body is still to be read."""

    def __init__(self, status: int, headers: dict[str, str], body: AsyncIterator[bytes]) -> None:
        self.status = status
        self.headers = headers
        self._body = body

    def pieces(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises Fault where it breaks off."""
        return self._body

    async def read(self) -> bytes:
        """All of the body. Raises Fault where it breaks off."""
        return b"".join([piece async for piece in self._body])


class Connection:
    """One request at a time, over one connection for as long as the server keeps it.

    `headers` go with every request. A context manager that connects at once; else the first request does.
    """

    def __init__(
        self, site: Site, headers: Mapping[str, str] | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        self._site = site
        self._fields = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        self._tls = (tls or ssl.create_default_context()) if site.scheme == "https" else None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def __aenter__(self) -> Self:
        await self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """At once; a server in the middle of an answer sees that its client has left."""
        if self._writer is not None:
            self._writer.transport.abort()
        self._reader = self._writer = None

    async def ask(self, method: str, path: str, content: bytes | None = None) -> Answer:
        """The answer's head. The body is to be read before the next request. Raises Fault."""
        is_reused = self._writer is not None
        try:
            return await self._ask(method, path, content)
        except _NoAnswer:
            if not is_reused:
                raise
        return await self._ask(method, path, content)  # the server had closed it meanwhile, as it may

    async def _ask(self, method: str, path: str, content: bytes | None) -> Answer:
        reader, writer = await self._open()
        head = (
            f"{method} {self._site.prefix}{path} HTTP/1.1\r\nHost: {self._site.authority}\r\n{self._fields}"
        )
        if content is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        try:
            writer.write(head.encode("latin-1") + b"\r\n" + (content or b""))
            await writer.drain()
            return await self._answer(reader)
        except Fault:
            self.close()
            raise
        except OSError as error:
            self.close()
            raise _NoAnswer("closed", _words(error)) from None
        except BaseException:
            self.close()
            raise

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._reader is None or self._writer is None:
            try:
                self._reader, self._writer = await asyncio.open_connection(
                    self._site.host, self._site.port, ssl=self._tls, limit=_HEAD_BYTES
                )
            except OSError as error:  # of TLS too
                raise Fault("connect", f"cannot connect to {self._site.authority}: {_words(error)}") from None
        return self._reader, self._writer

    async def _answer(self, reader: asyncio.StreamReader) -> Answer:
        while True:
            version, status = _status(await _line(reader, is_first=True))
            headers = await _headers(reader)
            if status >= 200:
                break
        tokens = headers.get("connection", "").lower()
        is_kept = "close" not in tokens and (version != "HTTP/1.0" or "keep-alive" in tokens)
        if "chunked" in headers.get("transfer-encoding", "").lower():
            body = _chunks(reader)
        elif "content-length" in headers:
            body = _sized(reader, _number(headers["content-length"], 10))
        elif status in (204, 304):
            body = _sized(reader, 0)
        else:
            body, is_kept = _until_closed(reader), False
        return Answer(status, headers, self._read(body, is_kept))

    async def _read(self, body: AsyncIterator[bytes], is_kept: bool) -> AsyncIterator[bytes]:
        is_whole = False
        try:
            async for piece in body:
                yield piece
            is_whole = True
        except OSError as error:
            raise error if isinstance(error, Fault) else Fault("closed", _words(error)) from None
        finally:
            if not (is_whole and is_kept):
                self.close()


class _NoAnswer(Fault):
    """The connection was closed before anything of the answer came."""


def _words(error: OSError) -> str:
    return error.strerror or str(error) or type(error).__name__


async def _line(reader: asyncio.StreamReader, is_first: bool = False) -> str:
    try:
        line = await reader.readline()
    except ValueError:
        raise Fault("protocol", "a line of the answer's head is too long") from None
    if not line.endswith(b"\n"):
        if is_first and not line:
            raise _NoAnswer("closed", "the connection was closed without an answer")
        raise Fault("closed", "the connection was closed in the middle of the answer")
    return line.decode("latin-1").rstrip("\r\n")


def _status(line: str) -> tuple[str, int]:
    version, _, rest = line.partition(" ")
    code = rest[:3]
    if not version.startswith("HTTP/1.") or not (len(code) == 3 and code.isascii() and code.isdigit()):
        raise Fault("protocol", f"the answer begins with {line[:80]!r}, which is no HTTP/1.1")
    return version, int(code)


async def _headers(reader: asyncio.StreamReader) -> dict[str, str]:
    headers = {}
    while line := await _line(reader):
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return headers


def _number(text: str, base: int) -> int:
    try:
        number = int(text, base)
    except ValueError:
        number = -1
    if number < 0:
        raise Fault("protocol", f"{text[:80]!r} is no length")
    return number


async def _sized(reader: asyncio.StreamReader, size: int) -> AsyncIterator[bytes]:
    """In one piece, unless it is large: what a server sent in one chunk came at one moment."""
    while size:
        try:
            piece = await reader.readexactly(min(size, _PIECE_BYTES))
        except asyncio.IncompleteReadError:
            raise Fault("closed", "the connection was closed in the middle of the answer") from None
        size -= len(piece)
        yield piece


async def _chunks(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while size := _number((await _line(reader)).partition(";")[0].strip(), 16):
        async for piece in _sized(reader, size):
            yield piece
        await _line(reader)
    await _headers(reader)  # trailers, and the empty line


async def _until_closed(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    while piece := await reader.read(_PIECE_BYTES):
        yield piece
