"""The pages of docs/ as a site: every link leads somewhere, and nothing comes from another host."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from tests.browser import open_browser

ROOT = Path(__file__).resolve().parent.parent
FOREIGN = re.compile(r"^(https?:)?//", re.IGNORECASE)
ASSETS = {"img": "src", "script": "src", "source": "srcset", "iframe": "src", "link": "href"}


def build(config: Path, to: Path) -> "subprocess.CompletedProcess[str]":
    pytest.importorskip("material", reason="mkdocs-material is not installed")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    return subprocess.run(
        [*command, "--config-file", str(config), "--site-dir", str(to)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    run = build(ROOT / "mkdocs.yml", folder)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


class Assets(HTMLParser):
    """What a browser loads by itself with a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag in ASSETS and given.get("rel") not in ("canonical", "next", "prev"):
            self.found.append(given.get(ASSETS[tag]) or "")


def test_no_page_and_no_style_asks_another_host_for_anything(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 40
    for page in pages:
        found = Assets(page.read_text(encoding="utf-8")).found
        assert found
        assert not [asset for asset in found if FOREIGN.match(asset)], page
        assert 'class="mermaid"' not in page.read_text(encoding="utf-8"), "its renderer would be fetched"
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", style.read_text(encoding="utf-8")), (
            style
        )


def test_links_out_of_the_docs_lead_to_pages_with_what_lies_there(site: Path) -> None:
    deployment = (site / "deployment" / "index.html").read_text(encoding="utf-8")
    assert 'href="../source/deploy/models.toml/"' in deployment
    assert "token_budget" in (site / "source/deploy/models.toml/index.html").read_text(encoding="utf-8")
    folder = (site / "source/deploy/prometheus/index.html").read_text(encoding="utf-8")
    assert 'href="rules.yml/"' in folder
    assert "QuartetDown" in (site / "source/deploy/prometheus/rules.yml/index.html").read_text(
        encoding="utf-8"
    )


def test_a_list_behind_a_text_is_a_list(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = re.sub(r"<pre.*?</pre>", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        assert not re.search(r"<p>((?!</p>).)*\n- ", text, re.DOTALL), page


@pytest.mark.parametrize(
    "text",
    ["[x](nowhere.md)", "[x](#nowhere)", "[x](../deploy/nowhere.toml)"],
    ids=["page", "anchor", "file"],
)
def test_a_link_to_nothing_fails_the_build(text: str, tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "index.md").write_text(f"# Index\n\n{text}\n", encoding="utf-8")
    (tmp_path / "mkdocs.yml").write_text(
        f"site_name: one\nhooks: [{ROOT / 'docs/sources.py'}]\nvalidation: {{anchors: warn}}\n",
        encoding="utf-8",
    )
    run = build(tmp_path / "mkdocs.yml", tmp_path / "site")
    assert run.returncode != 0
    assert "nowhere" in run.stdout + run.stderr


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # its name there
        """Nothing to tell."""


@contextmanager
def served(folder: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as server:
        thread = Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_a_browser_that_reads_and_searches_it_asks_this_host_alone(site: Path) -> None:
    with served(site) as url, open_browser() as browser:
        page = browser.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        for path in ("/", "/engine/", "/architecture/", "/source/deploy/models.toml/"):
            page.goto(url + path, wait_until="networkidle")
            assert page.locator("h1").count() == 1
        page.goto(f"{url}/?q=preemption")
        page.locator(".md-search-result__item").first.wait_for(state="attached")
        assert len(asked) > 10
        assert [one for one in asked if not one.startswith((url, "data:", "blob:"))] == []
