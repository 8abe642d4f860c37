"""Hosts, sites, rates, and what the log tells of all that."""

import json
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.api.guard import Guard, loopback_hosts
from app.api.rates import Rates
from app.errors import InvalidRequest, RateLimited
from app.logs import JsonFormatter, TextFormatter
from app.security import KeyRing
from tests.api.conftest import Service
from tests.api.test_errors import GENERATE, fault
from tests.api.test_keys import Clock, bearer, line

MARK = "xyzzy"
SITE = "https://app.example.com"


@pytest.mark.parametrize(
    ("hosts", "right", "wrong"),
    [
        (None, ["anything", "", "evil.example:80"], []),
        (["*"], ["anything"], []),
        (
            loopback_hosts("127.0.0.1"),
            ["localhost", "LOCALHOST:8000", "localhost.", "127.0.0.1:1", "[::1]:8000", "[::1]"],
            ["", "evil.example", "localhost.evil.example:8000", "127.0.0.1.nip.io", "127.0.0.2", "[::2]"],
        ),
        (loopback_hosts("127.0.0.9"), ["127.0.0.9:8000", "localhost"], ["127.0.0.8"]),
        (
            ["Models.Example.com", "[2001:DB8::1]"],
            ["models.example.com", "[2001:db8::1]:8000"],
            ["example.com"],
        ),
        (["*.example.com"], ["a.example.com:80", "a.b.example.com"], ["example.com", "badexample.com", "*"]),
    ],
)
def test_hosts(hosts: list[str] | None, right: list[str], wrong: list[str]) -> None:
    guard = Guard(hosts=hosts)
    for host in right:
        guard.check_host("/info", {b"host": host.encode()})
    for host in wrong:
        with pytest.raises(InvalidRequest) as refused:
            guard.check_host("/info", {b"host": host.encode()})
        assert (refused.value.param, refused.value.code) == ("Host", "host_not_allowed")
        guard.check_host("/ready", {b"host": host.encode()})


def test_another_host_is_a_400(start: Callable[..., Service]) -> None:
    service = start(guard=Guard(hosts=loopback_hosts("127.0.0.1")))
    rebound = {"Host": f"evil.example:{service.port}"}
    for response in (
        service.post("/v1/generate", GENERATE, headers=rebound),
        service.client.get("/info", headers=rebound),
        service.client.get("/docs", headers=rebound),
    ):
        assert (response.status_code, fault(response)["code"]) == (400, "host_not_allowed")
    assert service.client.get("/health", headers=rebound).status_code == 200
    assert service.post("/v1/generate", GENERATE).status_code == 200


def preflight(service: Service, origin: str) -> httpx.Response:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization, content-type, x-stainless-lang",
    }
    return service.client.options("/v1/generate", headers=headers)


def test_pages_of_named_sites_may_ask_and_read_refusals(
    start: Callable[..., Service], tmp_path: Path
) -> None:
    (tmp_path / "keys").write_text(line("app", "infer"))
    service = start(guard=Guard(KeyRing(tmp_path / "keys")), cors_origins=[SITE])
    allowed = preflight(service, SITE)
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, SITE)
    assert "authorization" in allowed.headers["access-control-allow-headers"]
    assert allowed.headers["x-request-id"]
    other = preflight(service, "https://evil.example")
    assert "access-control-allow-origin" not in other.headers
    origin = {"Origin": SITE}
    answers = [
        service.post("/v1/generate", GENERATE, headers=origin | bearer("app")),
        service.post("/v1/generate", GENERATE | {"stream": True}, headers=origin | bearer("app")),
        service.post("/v1/generate", GENERATE, headers=origin),
        service.post("/v1/generate", {"prompt": "x" * (1 << 20)}, headers=origin | bearer("app")),
        service.client.get("/nothing", headers=origin | bearer("app")),
        service.post("/v1/generate", {}, headers=origin | bearer("app")),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 401, 413, 404, 400]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == SITE
        assert "X-Request-ID" in answer.headers["access-control-expose-headers"]
    silent = service.post(
        "/v1/generate", GENERATE, headers=bearer("app") | {"Origin": "https://evil.example"}
    )
    assert "access-control-allow-origin" not in silent.headers


def test_no_site_may_ask_by_default(shared: Service) -> None:
    for response in (preflight(shared, SITE), shared.client.get("/health", headers={"Origin": SITE})):
        assert "access-control-allow-origin" not in response.headers


def test_a_bucket_refills_steadily_and_no_further_than_a_minute() -> None:
    clock = Clock()
    rates = Rates(requests=2, clock=clock)
    for _ in range(2):
        rates.admit("a")
    with pytest.raises(RateLimited) as refused:
        rates.admit("a")
    assert refused.value.retry_after == pytest.approx(30.0)
    assert "2 requests" in refused.value.message
    rates.admit("b")
    clock.now = 29.0
    with pytest.raises(RateLimited) as refused:
        rates.admit("a")
    assert refused.value.retry_after == pytest.approx(1.0)
    clock.now = 30.0
    rates.admit("a")
    clock.now = 10_000.0
    for _ in range(2):
        rates.admit("a")
    with pytest.raises(RateLimited):
        rates.admit("a")


def test_tokens_are_counted_when_they_are_known() -> None:
    clock = Clock()
    rates = Rates(tokens=60, clock=clock)
    for _ in range(3):
        rates.admit("a")
    rates.charge("a", 90)
    with pytest.raises(RateLimited) as refused:
        rates.admit("a")
    assert refused.value.retry_after == pytest.approx(31.0)
    assert "60 tokens" in refused.value.message
    rates.admit("b")
    clock.now = 31.0
    rates.admit("a")
    endless = Rates()
    endless.charge("a", 10**9)
    endless.admit("a")


def test_429_for_the_key_that_asked_too_much(start: Callable[..., Service], tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(line("app", "infer") + line("other", "infer"))
    clock = Clock()
    service = start(guard=Guard(KeyRing(tmp_path / "keys"), rates=Rates(requests=3, tokens=24, clock=clock)))

    def ask(name: str, **more: Any) -> httpx.Response:
        return service.post("/v1/generate", GENERATE | more, headers=bearer(name))

    assert ask("app", max_tokens=10, stream=True).status_code == 200
    assert ask("app", max_tokens=10).status_code == 200
    refused = ask("app")
    error = fault(refused)
    assert (refused.status_code, error["type"], error["code"]) == (429, "overloaded_error", "rate_limited")
    assert "24 tokens" in error["message"]
    assert refused.headers["retry-after"] == "3"
    assert service.client.get("/v1/models", headers=bearer("app")).status_code == 200
    assert ask("other").status_code == 200
    clock.now = 3.0
    assert ask("app", max_tokens=1).status_code == 200
    clock.now = 18.0
    assert "3 requests" in fault(ask("app"))["message"]
    text = service.on_loop(lambda: service.registry.exposition().decode())
    assert 'quartet_rejected_total{reason="rate_limited"} 2.0' in text
    assert "app" not in text.replace("mapped", "")


def test_without_keys_all_clients_share_one_rate(start: Callable[..., Service]) -> None:
    service = start(guard=Guard(rates=Rates(requests=1, clock=Clock())))
    assert service.post("/v1/generate", GENERATE).status_code == 200
    refused = service.post("/v1/generate", GENERATE)
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "60")


def lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    records = [record for record in caplog.records if record.name.startswith("quartet")]
    assert records
    return [json.loads(JsonFormatter().format(record)) for record in records]


def use_it(service: Service) -> None:
    """Requests that end in every way, all with a text to look for."""
    prompt = {"prompt": MARK, "max_tokens": 4}
    headers = bearer("app")
    service.post("/v1/generate", prompt, headers=headers)
    service.post("/v1/generate", prompt | {"stream": True}, headers=headers)
    service.post("/v1/generate", prompt, headers=bearer("nobody"))
    service.post("/v1/generate", {"prompt": [MARK, 1]}, headers=headers)
    service.post("/v1/generate", prompt | {"max_tokens": MARK}, headers=headers)
    service.post("/v1/classify", {"text": MARK * 100}, headers=headers)
    service.client.post("/translate", data={"q": MARK, "api_key": "secret-app"})
    service.engine.failure = ZeroDivisionError("no")
    service.post("/v1/generate", prompt, headers=headers)


def test_the_log_tells_who_asked_and_no_text_and_no_key(
    start: Callable[..., Service], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "quartet")
    (tmp_path / "keys").write_text(line("app", "infer"))
    service = start(guard=Guard(KeyRing(tmp_path / "keys")))
    service.client.get("/metrics", headers=bearer("app"))
    use_it(service)
    service.close()
    told = lines(caplog)
    access = [entry for entry in told if entry["logger"] == "quartet.access"]
    assert (access[0]["message"], access[0]["key"]) == ("GET /metrics 403", "app")
    assert len(access) == 9
    assert all(entry["client"] == "127.0.0.1" for entry in access)
    assert [entry.get("key") for entry in access] == [*["app"] * 3, None, *["app"] * 5]
    whole = json.dumps(told) + "".join(TextFormatter().format(record) for record in caplog.records)
    assert MARK not in whole
    assert "secret-" not in whole


def test_the_log_shows_texts_when_told_to_and_still_no_key(
    start: Callable[..., Service], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "quartet")
    (tmp_path / "keys").write_text(line("app", "infer"))
    service = start(guard=Guard(KeyRing(tmp_path / "keys")), logs_prompts=True)
    use_it(service)
    service.post("/v1/generate", {"prompt": "x" * 20_000, "max_tokens": 1}, headers=bearer("app"))
    service.close()
    access = [entry for entry in lines(caplog) if entry["logger"] == "quartet.access"]
    shown = [json.loads(entry["body"]) for entry in access[:-1] if "body" in entry]
    assert shown[0] == {"prompt": MARK, "max_tokens": 4}
    assert {"q": MARK} in shown
    assert len(shown) == 7
    assert "body" not in access[2]
    assert len(access[-1]["body"]) == 10_000
    assert "secret-" not in json.dumps(access)


@pytest.mark.parametrize("host", ["[", "[::1", "a b", "a/b?c#d", "x:y", "\xff", "a@b:99999999"])
@pytest.mark.parametrize(
    "target", ["/nothing", "/health/", "/v1/generate", "//evil.example/x", "/%ed%a0%80", "/%00"]
)
def test_odd_hosts_and_paths_are_no_bug_of_ours(shared: Service, host: str, target: str) -> None:
    with socket.create_connection(("127.0.0.1", shared.port), timeout=10) as connection:
        head = f"GET {target} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode("latin-1"))
        status = int(connection.makefile("rb").readline().split()[1])
    assert status in (307, 400, 404, 405)
