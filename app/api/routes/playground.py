"""`GET /`: the playground for a browser, links for anything else; its static files, read once and held in memory."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files

from fastapi import APIRouter, HTTPException, Request, Response

from app.api.errors import JSON, encode_json

_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "object-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # kept, and asked for anew with the ETag: a new version is seen at once
}
_LINKS = {
    "name": "quartet",
    "docs": "/docs",
    "openapi": "/openapi.json",
    "models": "/v1/models",
    "health": "/health",
    "metrics": "/metrics",
}


@dataclass(frozen=True)
class _File:
    """What goes out, and what tells one version of it from another."""

    content: bytes
    media_type: str
    etag: str

    @classmethod
    def read(cls, name: str) -> "_File":
        content = files("app.api").joinpath("ui", name).read_bytes()
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        return cls(content, _TYPES[name.rpartition(".")[2]], etag)

    def answer(self, request: Request, **headers: str) -> Response:
        """The file, or 304 where the client has it."""
        headers = _HEADERS | headers | {"ETag": self.etag}
        if self.etag in _tags(request.headers.getlist("if-none-match")):
            return Response(status_code=304, headers=headers)
        return Response(self.content, media_type=self.media_type, headers=headers)


def make_router() -> APIRouter:
    """The routes over the files as they are now."""
    router = APIRouter(include_in_schema=False)
    page = _File.read("playground.html")
    names = [entry.name for entry in files("app.api").joinpath("ui", "static").iterdir() if entry.is_file()]
    static = {name: _File.read(f"static/{name}") for name in names}

    @router.api_route("/", methods=["GET", "HEAD"])
    async def playground(request: Request) -> Response:
        if _wants_html(request.headers.getlist("accept")):
            return page.answer(request, Vary="Accept")
        return Response(encode_json(_LINKS), media_type=JSON, headers={"Vary": "Accept"})

    @router.api_route("/static/{name}", methods=["GET", "HEAD"])
    async def static_file(name: str, request: Request) -> Response:
        if name not in static:
            raise HTTPException(404)
        return static[name].answer(request)

    return router


def _tags(headers: Iterable[str]) -> set[str]:
    return {tag.strip().removeprefix("W/") for header in headers for tag in header.split(",")}


def _wants_html(headers: Iterable[str]) -> bool:
    """Browsers name text/html; `*/*` alone, as of curl, does not ask for a page."""
    kinds = (kind for header in headers for kind in header.split(","))
    return any(kind.partition(";")[0].strip().lower() == "text/html" for kind in kinds)
