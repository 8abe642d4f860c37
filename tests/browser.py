"""Debian's Chromium under Playwright, where both are there."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = shutil.which("chromium")
_ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextmanager
def open_browser() -> Iterator[Any]:
    """A Playwright browser; the test is skipped where it, or Chromium, is missing. Close it before asyncio.run."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("there is no chromium")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, headless=True, args=_ARGUMENTS)
        yield browser
        browser.close()


class Visit:
    """A page that a person looks at; keeps what its console complains of."""

    def __init__(self, browser: Any, url: str, **options: Any) -> None:
        self.page = browser.new_page(base_url=url, **options)
        self.page.set_default_timeout(20_000)
        self.complaints: list[str] = []
        self.page.on("console", lambda message: self._hear(message.type, message.text))
        self.page.on("pageerror", lambda error: self._hear("error", str(error)))

    def _hear(self, kind: str, text: str) -> None:
        if kind in ("error", "warning"):
            self.complaints.append(text)

    def open(self, tab: str = "generate") -> Any:
        """The tab's panel, once it is known what is served."""
        self.page.goto(f"/#{tab}")
        self.page.locator("#served", has_text=" on ").wait_for()
        return self.panel(tab)

    def choose(self, tab: str) -> Any:
        """A click on the tab; its panel."""
        self.page.locator(f"#tab-{tab}").click()
        return self.panel(tab)

    def panel(self, tab: str) -> Any:
        return self.page.locator(f"#panel-{tab}")

    def ask(self, panel: Any) -> str:
        """A click on the panel's button; the text of the answer, once all of it is there."""
        panel.locator("button[type=submit]").click()
        panel.locator(".status", has_text=" ms").wait_for()
        return str(panel.locator(".output").inner_text())

    def close(self) -> None:
        self.page.close()
