"""A hub of our own on loopback: model info, tree, resolve with a redirect to another origin for large files, ranges,
etags, tokens, and faults on demand. What `huggingface_hub` sends and expects, no more."""

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_secret"
LARGE = 1000
"""Bytes from which a file is kept in the large store, at the other origin."""


@dataclass
class Repository:
    """Files by revision. `gated` ones tell what they hold but not what is in it; `private` ones are not there."""

    revisions: dict[str, dict[str, bytes]]
    gated: bool = False
    private: bool = False

    def commit(self, revision: str) -> str:
        """The commit hash that a name stands for."""
        return sha1(revision.encode()).hexdigest()

    def files(self, revision: str) -> dict[str, bytes] | None:
        """Of a branch, a tag or a commit."""
        names = {self.commit(name): files for name, files in self.revisions.items()} | self.revisions
        return names.get(revision)


@dataclass
class Request:
    """What came in."""

    method: str
    path: str
    range: str | None
    has_token: bool
    is_store: bool


@dataclass
class Hub:
    """Set `repositories`, read `requests`; `cuts` are how many large answers break off in the middle."""

    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    cuts: int = 0
    status: int | None = None
    url: str = ""
    store_url: str = ""

    def file_requests(self) -> list[Request]:
        """GETs of contents, from either origin."""
        return [one for one in self.requests if one.method == "GET" and "/api/" not in one.path]


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Two origins on random ports, until the end of the block."""
    hub = Hub()
    servers = [_Origin(hub, is_store) for is_store in (False, True)]
    hub.url, hub.store_url = (f"http://127.0.0.1:{server.server_address[1]}" for server in servers)
    threads = [threading.Thread(target=server.serve_forever, args=(0.01,)) for server in servers]
    for thread in threads:
        thread.start()
    try:
        yield hub
    finally:
        for server, thread in zip(servers, threads, strict=True):
            server.shutdown()
            server.server_close()
            thread.join()


class _Origin(ThreadingHTTPServer):
    """The hub, or the store where its large files are."""

    def __init__(self, hub: Hub, is_store: bool) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.hub, self.is_store = hub, is_store


class _Handler(BaseHTTPRequestHandler):
    """Of either origin."""

    server: _Origin
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, *args: Any) -> None:
        pass

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        has_token = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        self.server.hub.requests.append(
            Request(self.command, path, self.headers.get("Range"), has_token, self.server.is_store)
        )
        if self.server.hub.status is not None:
            self._send(self.server.hub.status, b"")
        elif self.server.is_store:
            self._send_stored(path)
        elif self.headers.get("Authorization") not in (None, f"Bearer {TOKEN}"):
            self._send(401, b"", {"X-Error-Message": "Invalid credentials in Authorization header"})
        elif api := re.fullmatch(r"/api/models/([^/]+/[^/]+?)(?:/(revision|tree)/(.+))?", path):
            self._send_listing(api[1], api[2], api[3] or "main", has_token)
        elif content := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._send_content(content[1], content[2], content[3], has_token)
        else:
            self._send(404, b"")

    def _send_listing(self, name: str, what: str | None, revision: str, has_token: bool) -> None:
        repository = self.server.hub.repositories.get(name)
        if repository is None or (repository.private and not has_token):
            self._send(401, b"", {"X-Error-Code": "RepoNotFound"})
        elif (files := repository.files(revision)) is None:
            self._send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        elif what == "tree":
            self._send_json([{"type": "file", "path": path} | _blob(data) for path, data in files.items()])
        else:
            siblings = [{"rfilename": path, "size": len(data)} for path, data in files.items()]
            is_commit = re.fullmatch("[0-9a-f]{40}", revision)
            sha = revision if is_commit else repository.commit(revision)
            self._send_json({"id": name, "sha": sha, "siblings": siblings})

    def _send_content(self, name: str, revision: str, path: str, has_token: bool) -> None:
        repository = self.server.hub.repositories[name]
        files = repository.files(revision) or {}
        if repository.gated and not has_token:
            self._send(401, b"", {"X-Error-Code": "GatedRepo"})
        elif path not in files:
            self._send(404, b"", {"X-Error-Code": "EntryNotFound"})
        else:
            data, is_commit = files[path], re.fullmatch("[0-9a-f]{40}", revision)
            commit = {"X-Repo-Commit": revision if is_commit else repository.commit(revision)}
            digest = sha256(data).hexdigest()
            if len(data) < LARGE:
                self._send(200, data, commit | {"ETag": f'"{sha1(data).hexdigest()}"'})
            else:
                linked = {"X-Linked-Etag": f'"{digest}"', "X-Linked-Size": str(len(data))}
                location = {"Location": f"{self.server.hub.store_url}/{digest}?signature=x"}
                self._send(302, b"", commit | linked | location)

    def _send_stored(self, path: str) -> None:
        every = [files for one in self.server.hub.repositories.values() for files in one.revisions.values()]
        data = {f"/{sha256(data).hexdigest()}": data for files in every for data in files.values()}[path]
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").split("-")[0])
        whole = {"Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"} if start else {}
        if self.server.hub.cuts:
            self.server.hub.cuts -= 1
            self._send(206 if start else 200, data[start:], whole, cut=(len(data) - start) // 2)
        else:
            self._send(206 if start else 200, data[start:], whole)

    def _send_json(self, value: Any) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None
    ) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut])
        if cut is not None:
            self.close_connection = True


def _blob(data: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"size": len(data), "oid": sha1(data).hexdigest()}
    if len(data) >= LARGE:
        entry["lfs"] = {"size": len(data), "oid": sha256(data).hexdigest(), "pointerSize": 134}
    return entry
