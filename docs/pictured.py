"""Takes the pictures of the playground, light and dark, from a running service: `python -m docs.pictured [URL]`."""

import sys
from pathlib import Path

from tests.browser import Visit, open_browser

IMAGES = Path(__file__).parent / "images"
SIZE = {"width": 1200, "height": 700}


def main(url: str = "http://127.0.0.1:8000") -> None:
    """A text goes on, and the pointer rests on one of its tokens."""
    with open_browser() as browser:
        for scheme, name in (("light", "playground"), ("dark", "playground-dark")):
            visit = Visit(browser, url, viewport=SIZE, color_scheme=scheme, reduced_motion="reduce")
            panel = visit.open()
            panel.get_by_label("Seed").fill("1")
            visit.ask(panel)
            panel.locator(".token").nth(24).hover()
            visit.page.screenshot(path=IMAGES / f"{name}.png")
            visit.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
