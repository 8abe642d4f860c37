"""The page at /: what it is made of, what goes out with it, and that it stands alone."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.api.conftest import Service

UI = Path(__file__).resolve().parents[2] / "app/api/ui"
STATIC = sorted(path.name for path in (UI / "static").iterdir())
FILES = ["playground.html", *(f"static/{name}" for name in STATIC)]
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
TYPES = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml"}
MAX_BYTES = 150_000


class _Page(HTMLParser):
    """The tags of a page, and whether anything stands inside a script or style."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.inline: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags and self.tags[-1][0] in ("script", "style") and data.strip():
            self.inline.append(data)


@pytest.fixture(scope="module")
def page() -> _Page:
    return _Page((UI / "playground.html").read_text(encoding="utf-8"))


def read(name: str) -> str:
    return (UI / name).read_text(encoding="utf-8")


def test_a_browser_gets_the_page_with_its_headers(shared: Service) -> None:
    response = shared.client.get("/", headers=BROWSER)
    assert response.status_code == 200
    assert response.text == read("playground.html")
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    assert response.headers["vary"] == "Accept"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["referrer-policy"] == "no-referrer"


def test_nothing_inline_and_nothing_from_elsewhere_is_let_in(shared: Service) -> None:
    for path in ("/", "/static/app.js"):
        policy = shared.client.get(path, headers=BROWSER).headers["content-security-policy"]
        rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
        assert rules["default-src"] == "'self'"
        assert rules["frame-ancestors"] == rules["base-uri"] == rules["object-src"] == "'none'"
        assert "unsafe" not in policy
        assert "*" not in policy


@pytest.mark.parametrize("accept", ["*/*", "application/json", "", "text/*"])
def test_others_get_links(shared: Service, accept: str) -> None:
    response = shared.client.get("/", headers={"Accept": accept})
    assert response.headers["content-type"] == "application/json"
    assert response.headers["vary"] == "Accept"
    links = response.json()
    assert links.pop("name") == "quartet"
    assert {"/docs", "/v1/models", "/metrics"} <= set(links.values())
    for path in links.values():
        assert shared.client.get(path).status_code == 200


def test_head_tells_the_same_without_a_body(shared: Service) -> None:
    for path in ("/", "/static/app.js"):
        got, head = (shared.client.request(method, path, headers=BROWSER) for method in ("GET", "HEAD"))
        assert (head.status_code, head.content) == (200, b"")
        for name in ("content-type", "content-length", "etag", "content-security-policy"):
            assert head.headers[name] == got.headers[name]


@pytest.mark.parametrize("name", STATIC)
def test_static_files_come_as_what_they_are(shared: Service, name: str) -> None:
    response = shared.client.get(f"/static/{name}")
    assert response.status_code == 200
    assert response.text == read(f"static/{name}")
    assert response.headers["content-type"].partition(";")[0] == TYPES[name.rpartition(".")[2]]
    assert response.headers["x-content-type-options"] == "nosniff"


def test_what_a_browser_has_is_not_sent_again(shared: Service) -> None:
    first = shared.client.get("/static/app.js")
    assert first.headers["cache-control"] == "no-cache"
    etag = first.headers["etag"]
    for known in (etag, f'"other", W/{etag}'):
        again = shared.client.get("/static/app.js", headers={"If-None-Match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == etag
    other = shared.client.get("/static/api.js", headers={"If-None-Match": etag})
    assert other.status_code == 200


@pytest.mark.parametrize(
    "path", ["/static/none.js", "/static/", "/static/..%2Fplayground.html", "/static/%2e%2e/docs.html"]
)
def test_other_paths_are_not_there(shared: Service, path: str) -> None:
    response = shared.client.get(path)
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "route_not_found"


def test_it_is_small() -> None:
    assert sum((UI / name).stat().st_size for name in FILES) < MAX_BYTES


def test_it_names_no_other_host() -> None:
    for name in FILES:
        text = read(name).replace("http://www.w3.org/2000/svg", "")
        assert re.findall(r"https?://|[\"'(]//", text) == [], name


def test_every_file_that_is_asked_for_exists_and_none_is_left_over(page: _Page) -> None:
    asked = {
        value
        for tag, attributes in page.tags
        for value in (attributes.get("src"), attributes.get("href") if tag == "link" else None)
        if value
    }
    for name in STATIC:
        if name.endswith(".js"):
            asked |= {
                f"static/{found}" for found in re.findall(r'from "\./([\w.-]+)"', read(f"static/{name}"))
            }
    assert asked == {f"static/{name}" for name in STATIC}


def test_nothing_is_inline(page: _Page) -> None:
    assert page.inline == []
    for tag, attributes in page.tags:
        assert not [name for name in attributes if name == "style" or name.startswith("on")], tag
    for name in FILES:
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", read(name)), (
            name
        )
