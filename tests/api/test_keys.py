"""Keys: the file, the ring that reads it, and what each route lets in."""

import base64
import hashlib
import hmac
import http.client
import logging
import os
import re
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO
from urllib.error import HTTPError

import openai
import pytest
from fastapi.routing import iter_route_contexts
from libretranslatepy import LibreTranslateAPI

from app.api.dialects import dialect_of
from app.api.guard import Guard
from app.cli import main
from app.errors import ConfigError
from app.main import create_app
from app.metrics import Metrics
from app.registry import Registry
from app.security import KeyRing, new_key, read_keys
from app.tasks.served import Served
from tests.api.conftest import LIMITS, Service
from tests.api.test_errors import GENERATE, fault

SECRETS = {"app": "infer", "prometheus": "metrics", "root": "admin", "all": "infer,metrics,admin"}
OPEN = {("GET", path) for path in ("/health", "/ready", "/", "/static/mood", "/frontend/settings")}


def line(name: str, scopes: str, secret: str | None = None) -> str:
    return f"{name} {scopes} {hashlib.sha256((secret or f'secret-{name}').encode()).hexdigest()}\n"


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer secret-{name}"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.txt"
    path.write_text("# who may\n\n" + "".join(line(*one) for one in SECRETS.items()))
    return path


@pytest.fixture
def locked(start: Callable[..., Service], file: Path) -> Service:
    return start(guard=Guard(KeyRing(file)))


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_new_key_opens_what_its_line_says(tmp_path: Path) -> None:
    secret, key = new_key("ci-1", ["metrics", "infer"])
    path = tmp_path / "keys"
    path.write_text(f"{key.line()}\n")
    assert read_keys(path) == (key,)
    assert key.line().startswith("ci-1 infer,metrics ")
    assert secret not in path.read_text()
    assert len(base64.urlsafe_b64decode(secret.removeprefix("qk-") + "=")) == 32
    ring = KeyRing(path)
    assert ring.find(secret.encode()) == key
    assert ring.find(secret.encode() + b"x") is None
    assert (ring.grants("infer"), ring.grants("admin")) == (True, False)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a infer\n", ("line 1", "2 words")),
        ("# x\n\na infer 12\n", ("line 3", "SHA-256")),
        (line("a", "infer,root"), ("line 1", "root")),
        (line("a", "infer,"), ("line 1", "scopes")),
        (line("a/b", "infer"), ("line 1", "name")),
        (line("a", "infer") + line("a", "infer", "other"), ("line 2", "twice")),
        (line("a", "infer", "same") + line("b", "infer", "same"), ("line 2", "'a'")),
        ("# nobody\n", ("no key", "quartet key new")),
        (b"\xff\xfe", ("UTF-8",)),
        (None, ("cannot read",)),
    ],
)
def test_a_broken_file_is_told_in_one_line(
    tmp_path: Path, text: str | bytes | None, words: tuple[str, ...]
) -> None:
    path = tmp_path / "keys.txt"
    if text is not None:
        path.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(ConfigError) as refused:
        KeyRing(path)
    assert all(word in str(refused.value) for word in (str(path), *words))
    assert "\n" not in str(refused.value)


def test_every_key_is_compared_and_by_hmac(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ring = KeyRing(file)
    compared: list[str] = []

    def compare(stored: str, given: str) -> bool:
        compared.append(stored)
        return stored == given

    monkeypatch.setattr(hmac, "compare_digest", compare)
    for given in (b"secret-app", b"secret-all", b"nothing"):
        compared.clear()
        ring.find(given)
        assert len(compared) == len(SECRETS)


def test_a_changed_file_counts_after_a_second(file: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    clock = Clock()
    ring = KeyRing(file, clock)
    file.write_text(line("later", "infer"))
    assert ring.find(b"secret-app") is not None
    clock.now = 1.0
    assert ring.find(b"secret-app") is None
    assert ring.find(b"secret-later") is not None
    assert ring.grants("admin") is False
    file.write_text(line("later", "infer") + "broken\n")
    clock.now = 2.0
    assert ring.find(b"secret-later") is not None
    assert "line 2" in caplog.text
    caplog.clear()
    clock.now = 3.0
    assert ring.find(b"secret-later") is not None
    assert caplog.text == ""
    beside = file.with_suffix(".new")
    beside.write_text(line("third", "infer"))
    os.replace(beside, file)
    clock.now = 4.0
    assert ring.find(b"secret-third") is not None
    file.unlink()
    clock.now = 5.0
    assert ring.find(b"secret-third") is not None
    file.write_text("")
    clock.now = 6.0
    assert ring.find(b"secret-third") is None


def routes(served: list[Served]) -> list[tuple[str, str]]:
    """Every method and path that the application answers, placeholders filled in."""
    app = create_app(Registry("test", served, Metrics("test")), LIMITS)
    found = {
        (method, re.sub(r"{\w+(:path)?}", "mood", str(route.path)))
        for route in iter_route_contexts(app.routes)
        for method in route.methods or ()
        if method != "HEAD"
    }
    assert found >= {("POST", "/v1/generate"), ("GET", "/openapi.json"), ("GET", "/v1/models/mood")}
    return sorted(found)


def test_every_route_is_behind_a_key_of_its_scope(locked: Service, served: list[Served]) -> None:
    for method, path in [*routes(served), ("GET", "/nothing"), ("POST", "/"), ("GET", "/static")]:

        def ask(headers: dict[str, Any], method: str = method, path: str = path) -> Any:
            return locked.client.request(method, path, headers=headers, json={} if method == "POST" else None)

        if (method, path) in OPEN:
            assert ask({}).status_code not in (401, 403), path
            continue
        scope = "admin" if path.startswith("/admin") else "metrics" if path == "/metrics" else "infer"
        right = {"infer": "app", "metrics": "prometheus", "admin": "root"}[scope]
        for headers, code in (
            ({}, "missing_api_key"),
            ({"Authorization": "Basic c2VjcmV0"}, "missing_api_key"),
            (bearer("nobody"), "invalid_api_key"),
            ({"X-API-Key": "nobody"}, "invalid_api_key"),
            ({"Authorization": "Bearer s\xe9cret".encode("latin-1")}, "invalid_api_key"),
        ):
            refused = ask(headers)
            assert refused.status_code == 401, path
            if dialect_of(path) == "openai":
                assert (fault(refused)["type"], fault(refused)["code"]) == ("authentication_error", code)
            assert refused.headers["www-authenticate"] == "Bearer"
        for name in {"app", "prometheus", "root"} - {right}:
            refused = ask(bearer(name))
            assert refused.status_code == 403, path
            assert "permission_error" in refused.text or dialect_of(path) != "openai"
            assert f"the scope '{scope}'" in refused.text
        for headers in (
            bearer(right),
            {"authorization": f"bearer secret-{right}"},
            {"X-API-Key": f"secret-{right}"},
        ):
            assert ask(headers).status_code not in (401, 403), path


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_probes_need_no_key(locked: Service, path: str) -> None:
    assert locked.client.get(path).status_code == 200
    assert locked.client.head(path).status_code != 401
    assert locked.post(path, {}).status_code == 401


def test_options_are_open_and_say_nothing(locked: Service) -> None:
    assert locked.client.options("/v1/generate").status_code == 405


def test_percent_signs_open_nothing(locked: Service) -> None:
    for path in (
        "/%61dmin/trace",
        "/v1/../health/../v1/models",
        "/health/",
        "/static/../info",
        "/HEALTH",
    ):
        assert locked.client.get(path).status_code in (401, 404)


def test_clients_send_keys_as_they_do(locked: Service) -> None:
    def complete(key: str) -> str:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{locked.port}/v1", api_key=key, max_retries=0)
        return client.completions.create(model="writer", prompt="Hi", max_tokens=4).choices[0].text

    assert complete("secret-app")
    with pytest.raises(openai.AuthenticationError):
        complete("dummy")
    with pytest.raises(openai.PermissionDeniedError):
        complete("secret-prometheus")
    url = f"http://127.0.0.1:{locked.port}/"
    assert LibreTranslateAPI(url, "secret-app").translate("Hello", "en", "de")
    assert LibreTranslateAPI(url, "secret-app").detect("Hello, how are you today?")
    with pytest.raises(HTTPError, match="401"):
        LibreTranslateAPI(url, "dummy").translate("Hello", "en", "de")


@pytest.mark.parametrize("path", ["/translate", "/detect"])
def test_libretranslate_s_key_may_be_in_the_body(locked: Service, path: str) -> None:
    def status(**options: Any) -> int:
        return locked.client.post(path, **options).status_code

    assert status(json={"q": "a"}) == 401
    assert status(json={"q": "a", "api_key": "nobody"}) == 401
    assert status(json={"q": "a", "api_key": 5}) == 401
    is_json = {"Content-Type": "application/json"}
    assert status(content=b'{"api_key": "\\ud800"}', headers=is_json) == 401
    assert status(data={"q": "a", "api_key": "nobody"}) == 401
    assert status(content=b"[" * 5000, headers=is_json) == 401
    assert status(json={"q": "a", "api_key": "secret-prometheus"}) == 403
    for options in (
        {"json": {"q": "a", "api_key": "secret-app"}},
        {"data": {"q": "a", "api_key": "secret-app"}},
        {"json": {"q": "a", "api_key": "dummy"}, "headers": bearer("app")},
    ):
        assert status(**options) not in (401, 403)
    assert locked.post("/v1/generate", GENERATE | {"api_key": "secret-app"}).status_code == 401


def test_libretranslate_s_clients_are_told_that_they_need_one(locked: Service, shared: Service) -> None:
    for service, needs in ((locked, True), (shared, False)):
        settings = service.client.get("/frontend/settings").json()
        assert (settings["apiKeys"], settings["keyRequired"]) == (needs, needs)


def test_a_large_body_without_a_key_is_refused_and_heard_of(locked: Service) -> None:
    assert locked.post("/v1/generate", {"prompt": "x" * 900_000}).status_code == 401
    assert locked.client.get("/health").status_code == 200


def test_a_body_that_comes_behind_its_refusal_is_no_head(locked: Service) -> None:
    size = 200_000
    with (
        socket.create_connection(("127.0.0.1", locked.port), timeout=10) as connection,
        connection.makefile("rb") as answers,
    ):
        head = "POST /v1/generate HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {size}\r\n\r\n".encode())
        assert next_status(answers) == 401
        connection.sendall(b"x" * size)
        connection.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert next_status(answers) == 200


def next_status(answers: BinaryIO) -> int:
    """Of the next answer on a connection, which is read to its end."""
    status = int(answers.readline().split()[1])
    headers = http.client.parse_headers(answers)
    answers.read(int(headers["Content-Length"]))
    return status


def test_administration_is_not_there_without_an_administrator(
    shared: Service, start: Callable[..., Service], tmp_path: Path
) -> None:
    assert fault(shared.client.get("/admin/trace"))["code"] == "route_not_found"
    (tmp_path / "keys").write_text(line("app", "infer"))
    without = start(guard=Guard(KeyRing(tmp_path / "keys")))
    assert without.client.get("/admin/trace").status_code == 401
    for method in ("GET", "POST"):
        hidden = without.client.request(method, "/admin/trace", headers=bearer("app"))
        unknown = without.client.request(method, "/admim/trace", headers=bearer("app"))
        assert (hidden.status_code, unknown.status_code) == (404, 404)
        assert hidden.text == unknown.text.replace("admim", "admin")


def test_priority_above_0_needs_the_scope_admin(locked: Service, shared: Service) -> None:
    hurried = GENERATE | {"priority": 1}
    refused = locked.post("/v1/generate", hurried, headers=bearer("app"))
    assert (refused.status_code, fault(refused)["param"]) == (403, "priority")
    assert locked.post("/v1/generate", hurried, headers=bearer("all")).status_code == 200
    assert locked.post("/v1/generate", GENERATE | {"priority": -1}, headers=bearer("app")).status_code == 200
    assert shared.post("/v1/generate", hurried).status_code == 200


def test_quartet_key_new_adds_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "keys"
    assert main(["key", "new", "app", "--file", str(path)]) == 0
    path.write_text(path.read_text().rstrip("\n"))
    assert main(["key", "new", "ops", "--scopes", "metrics,admin", "--file", str(path)]) == 0
    app, ops = capsys.readouterr().out.split()
    ring = KeyRing(path)
    for secret, name, scopes in ((app, "app", ["infer"]), (ops, "ops", ["admin", "metrics"])):
        key = ring.find(secret.encode())
        assert key is not None
        assert (key.name, sorted(key.scopes)) == (name, scopes)
    assert path.stat().st_mode & 0o077 == 0
    for wrong in (
        ["app", "--file", str(path)],
        ["a b"],
        ["a", "--scopes", "root"],
        ["a", "--file", "/no/where"],
    ):
        assert main(["key", "new", *wrong]) == 2
        told = capsys.readouterr()
        assert (told.out, told.err.count("\n")) == ("", 1)
    assert main(["key", "new", "shown"]) == 0
    told = capsys.readouterr()
    (tmp_path / "more").write_text(told.err.splitlines()[-1])
    assert KeyRing(tmp_path / "more").find(told.out.strip().encode()) is not None
